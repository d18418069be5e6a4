#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "clients/cli/completion_script.h"
#include "engine/engine_client.h"
#include "engine/process_group.h"
#include "engine/process_main.h"
#include "engine/util/log.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/commands/bench.h"
#include "server/commands/bench_words.h"
#include "server/commands/checkpoints.h"
#include "server/commands/doctor.h"
#include "server/commands/failure.h"
#include "server/commands/generate.h"
#include "server/commands/keys.h"
#include "server/commands/model_path.h"
#include "server/commands/plan.h"
#include "server/commands/serve.h"
#include "server/commands/tokenize.h"
#include "server/flag_suggestions.h"
#include "server/server_config.h"

// The command line: which words there are, and what each command is told. What the commands do is in server/commands.

namespace optserve {
namespace {

// What CLI11 found on the command line, as text: it is read where environment and file are read too.
struct Words {
  FlagValues server;  // options of the table in server_config.cc
  GenerateOptions generate;
  KeysOptions keys;
  std::string model;
  std::string shell;
  bool print_config = false;
  bool decode = false;
  KernelBenchOptions kernel_bench;
  bool kernels_json = false;
  BenchOptions bench;
  std::string report_a, report_b;
  bool compare_json = false;
  PlanOptions plan;
  bool doctor_json = false;
  std::string doctor_root = "/";
  std::string doctor_nvml = "libnvidia-ml.so.1";
  int32_t doctor_load_seconds = 600;
  InspectOptions inspect;
  VerifyCommandOptions verify;
  ConvertCommandOptions convert;
};

// A field of the API as a flag: max_tokens as --max-tokens.
void AddField(CLI::App& command, Words& words, const CompletionField& field) {
  const std::string name(field.name);
  std::string flag = "--" + name;
  std::ranges::replace(flag, '_', '-');
  const auto keep = [&words, name](const std::string& text) { words.generate.fields[name].push_back(text); };
  const std::string help(field.description);
  CLI::Option* option = nullptr;
  if (std::holds_alternative<bool CompletionRequest::*>(field.target)) {
    option = command.add_flag_function(
        flag, [keep](int64_t count) { keep(count > 0 ? "true" : "false"); }, help);
  } else {
    option = command.add_option_function<std::string>(flag, keep, help)->type_name("VALUE");
    // Given again it adds one; of the others the last counts.
    if (std::holds_alternative<StopField>(field.target)) option->trigger_on_parse();
  }
  option->group("Sampling, as the API's fields");
}

void AddServerOptions(CLI::App& command, Words& words, bool only_engine) {
  const ServerConfig defaults;
  for (const ServerOption& option : ServerOptions()) {
    if (only_engine && !option.of_engine) continue;
    const std::string name(option.name);
    if (name == "model") continue;
    const auto keep = [&words, name](const std::string& text) { words.server[name] = text; };
    if (option.value.empty()) {
      command.add_flag_function(
          "--" + name, [keep](int64_t count) { keep(count > 0 ? "true" : "false"); }, std::string(option.help));
    } else {
      const std::string value = option.print(defaults);
      const std::string reloads = option.reloads && !only_engine ? "; SIGHUP reads it again" : "";
      const std::string shown = value.empty() ? "" : " (default: " + value + reloads + ")";
      command.add_option_function<std::string>("--" + name, keep, std::string(option.help) + shown)
          ->type_name(std::string(option.value));
    }
  }
  command
      .add_option_function<std::string>(
          "--config", [&words](const std::string& text) { words.server["config"] = text; },
          "a JSON file of these options")
      ->type_name("FILE");
}

// `required`: no other place can say it.
void AddModel(CLI::App& command, Words& words, bool required) {
  command
      .add_option_function<std::string>(
          "MODEL",
          [&words](const std::string& text) {
            words.server["model"] = words.model = words.inspect.model = words.verify.model = text;
          },
          "a model's directory, or its name in the Hugging Face cache")
      ->type_name("")
      ->required(required);
}

// For commands that look at files and start no engine; the others have it from the table.
void AddModelConfig(CLI::App& command, std::string& file) {
  command.add_option("--model-config", file, "a config.json to read instead of the model's, or where it has none")
      ->type_name("FILE");
}

// A setting of an API key as a flag: requests_per_minute as --requests-per-minute.
void AddKeySetting(CLI::App& command, Words& words, const std::string& name, const std::string& help) {
  std::string flag = "--" + name;
  std::ranges::replace(flag, '_', '-');
  command
      .add_option_function<int64_t>(
          flag, [&words, name](int64_t value) { words.keys.changes.push_back({.setting = name, .value = value}); },
          help)
      ->type_name("N");
}

void AddBench(CLI::App& app, Words& words) {
  CLI::App& bench =
      *app.add_subcommand("bench", "Measure an engine under load, this machine's kernels; compare reports");
  bench.require_subcommand(1);
  CLI::App* serve = bench.add_subcommand("serve", "A server, ours or another that speaks its protocol, under a load");
  AddBenchServer(*serve, words.bench.server);
  AddBenchOptions(*serve, words.bench);
  CLI::App* offline = bench.add_subcommand("offline", "An engine in this process, under a load");
  AddModel(*offline, words, /*required=*/true);
  AddBenchOptions(*offline, words.bench);
  AddServerOptions(*offline, words, /*only_engine=*/true);
  CLI::App* kernels = bench.add_subcommand("kernels", "Kernels at the shapes of OPT-125M, against what the CPU can do");
  kernels->add_option("--threads", words.kernel_bench.num_threads, "threads; 0: every CPU (default: 0)")
      ->type_name("N")
      ->check(CLI::Range(0, 4096));
  kernels->add_option("--repetitions", words.kernel_bench.repetitions, "of each measurement (default: 9)")
      ->type_name("N")
      ->check(CLI::Range(1, 1000));
  kernels->add_flag("--json", words.kernels_json, "print one JSON object instead of tables");
  AddReportFile(*kernels, "--csv", words.bench.outputs.csv, "a line for each measurement");
  AddReportFile(*kernels, "--html", words.bench.outputs.html, "one page with plots, which needs nothing else");
  CLI::App* compare = bench.add_subcommand("compare", "Ratios of two JSON reports, with bootstrap intervals");
  compare->add_option("A", words.report_a, "the report to compare with")->required()->type_name("");
  compare->add_option("B", words.report_b, "the report to compare")->required()->type_name("");
  compare->add_flag("--json", words.compare_json, "print one JSON object instead of a table");
}

void AddCommands(CLI::App& app, Words& words) {
  CLI::App* serve = app.add_subcommand("serve", "Serve a model over HTTP and gRPC until SIGTERM");
  AddModel(*serve, words, /*required=*/false);
  AddServerOptions(*serve, words, /*only_engine=*/false);
  serve->add_flag("--print-config", words.print_config, "print every option, its value and where it comes from");

  CLI::App* generate = app.add_subcommand("generate", "Print one completion, made in this process");
  AddModel(*generate, words, /*required=*/true);
  generate->add_option("--prompt", words.generate.prompt, "the text to go on with (default: standard input)")
      ->type_name("TEXT");
  generate->add_flag("--json", words.generate.json, "print the whole record, as the API answers it");
  for (const CompletionField* field : GenerateFields()) AddField(*generate, words, *field);
  AddServerOptions(*generate, words, /*only_engine=*/true);

  CLI::App* tokenize = app.add_subcommand("tokenize", "Turn lines of text into JSON lists of token ids");
  AddModel(*tokenize, words, /*required=*/true);
  tokenize->add_flag("--decode", words.decode, "turn lists back into text");

  AddBench(app, words);

  CLI::App* plan = app.add_subcommand("plan", "Foresee memory, latency and throughput of a model on a node");
  plan->add_option("MODEL", words.plan.model,
                   "a size such as opt-175b, a directory, or a name in the Hugging Face cache")
      ->type_name("")
      ->required();
  plan->add_option("--node", words.plan.node, "dgx2, dgx1, dgx-a100, a100, h200, a .json file, or cpu: this machine")
      ->type_name("NODE");
  plan->add_option("--dtype", words.plan.dtype, "of the weights: float16, float32 or int8")->type_name("TYPE");
  plan->add_option("--prompt-tokens", words.plan.prompt_tokens, "of a request (default: 512)")->type_name("N");
  plan->add_option("--output-tokens", words.plan.output_tokens, "of an answer (default: 128)")->type_name("N");
  plan->add_flag("--json", words.plan.json, "print one JSON object instead of tables");

  CLI::App* doctor = app.add_subcommand("doctor", "Check whether a server would run well on this machine");
  AddModel(*doctor, words, /*required=*/false);
  AddServerOptions(*doctor, words, /*only_engine=*/false);
  doctor->add_flag("--json", words.doctor_json, "print one JSON object instead of lines");
  doctor->add_option("--load-seconds", words.doctor_load_seconds, "reading the model may take (default: 600)")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 20));
  doctor->add_option("--host-root", words.doctor_root, "where /proc, /sys and /dev of the machine are (default: /)")
      ->type_name("DIR");
  doctor->add_option("--nvml", words.doctor_nvml, "NVIDIA's library (default: libnvidia-ml.so.1)")->type_name("FILE");

  CLI::App* inspect = app.add_subcommand("inspect", "Show what is in a checkpoint");
  AddModel(*inspect, words, /*required=*/true);
  AddModelConfig(*inspect, words.inspect.model_config);
  inspect->add_flag("--json", words.inspect.json, "print one JSON object instead of tables");

  CLI::App* verify = app.add_subcommand("verify", "Check that a model is whole: structure, numbers, checksums");
  AddModel(*verify, words, /*required=*/true);
  AddModelConfig(*verify, words.verify.model_config);
  verify->add_option("--checksums", words.verify.checksums, "a list of MD5 or SHA-256 and file names")
      ->type_name("FILE");

  CLI::App* convert = app.add_subcommand(
      "convert", "Write a model of any format as safetensors: as Hugging Face keeps it, or a file for each rank");
  convert->add_option("SOURCE", words.convert.source, "a model's directory, or its name in the Hugging Face cache")
      ->required()
      ->type_name("");
  convert->add_option("TARGET", words.convert.target, "the directory to write")->required()->type_name("");
  AddModelConfig(*convert, words.convert.model_config);
  convert->add_option("--tokenizer", words.convert.tokenizer, "a directory whose tokenizer to copy (default: SOURCE's)")
      ->type_name("DIR");
  convert->add_option("--dtype", words.convert.dtype, "float16, bfloat16 or float32 (default: as stored)")
      ->type_name("TYPE");
  convert->add_option("--max-shard-size", words.convert.max_shard_size, "of one file (default: 5GB)")
      ->type_name("SIZE");
  convert
      ->add_option(
          "--tensor-parallel-size", words.convert.tensor_parallel_size,
          "write a file for each of so many ranks, which optserve reads fastest and other programs do not read")
      ->type_name("N")
      ->check(CLI::Range(1, 1024));

  CLI::App* keys = app.add_subcommand("keys", "Make, list, change and revoke API keys");
  keys->add_option("ACTION", words.keys.action, "new, list, set or revoke")->required()->type_name("");
  keys->add_option("ID", words.keys.id, "the key to set or revoke")->type_name("");
  keys->add_option("--api-key-file", words.keys.file, "where their hashes are kept")->required()->type_name("FILE");
  keys->add_option("--name", words.keys.name, "whose a new key is, for people")->type_name("TEXT");
  AddKeySetting(*keys, words, "requests_per_minute", "that a new or set key may begin; 0: any number");
  AddKeySetting(*keys, words, "tokens_per_minute", "of its prompts and answers; 0: any number");
  AddKeySetting(*keys, words, "concurrent_requests", "at a time; 0: any number");
  AddKeySetting(*keys, words, "share_weight", "its share of the machine when others wait too, 1 to 1000");

  CLI::App* completion = app.add_subcommand("completion", "Print a script that teaches a shell these commands");
  completion->add_option("SHELL", words.shell, "bash, zsh or fish")->required()->type_name("");

  // Unknown flags are ours to answer, with what they may mean.
  for (CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) command->allow_extras();
}

// The first argument that `command` does not know, as an error that says what may have been meant.
absl::Status CheckExtras(const CLI::App& command) {
  const std::vector<std::string> extras = command.remaining();
  if (extras.empty()) return absl::OkStatus();
  const std::string flag = extras.front().substr(0, extras.front().find('='));
  std::vector<std::string> flags;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  if (const std::string hint = SuggestFlag(flag, flags); !hint.empty()) {
    return InvalidArgument("there is no {}; {}", flag, hint);
  }
  return InvalidArgument("there is no {}; optserve {} --help shows what there is", flag, command.get_name());
}

// From all places, with a warning for variables that look like ours.
absl::StatusOr<LoadedServerConfig> LoadConfig(const Words& words) {
  absl::StatusOr<LoadedServerConfig> loaded = LoadServerConfig(words.server, ProcessEnvironment(), ProcessVariables());
  if (!loaded.ok() || loaded->unknown_variables.empty()) return loaded;
  const Log log(loaded->config.log_format);
  for (const std::string& name : loaded->unknown_variables) log.Warning("unknown_variable", {{"name", name}});
  return loaded;
}

int RunServe(const Words& words) {
  const absl::StatusOr<LoadedServerConfig> loaded = LoadConfig(words);
  if (!loaded.ok()) return Fail(loaded.status());
  if (words.print_config) {
    std::fputs(PrintServerConfig(*loaded).c_str(), stdout);
    return kExitOk;
  }
  if (loaded->config.model.empty()) return Fail(InvalidArgument("serve needs a MODEL; see optserve serve --help"));
  return Serve(loaded->config, [&words]() -> absl::StatusOr<ServerConfig> {
    OPTSERVE_ASSIGN_OR_RETURN(LoadedServerConfig again, LoadServerConfig(words.server, ProcessEnvironment()));
    return std::move(again.config);
  });
}

int RunDoctor(const Words& words) {
  const absl::StatusOr<LoadedServerConfig> loaded = LoadConfig(words);
  if (!loaded.ok()) return Fail(loaded.status());
  return Doctor({.config = loaded->config,
                 .host = HostFiles(words.doctor_root),
                 .nvml_library = words.doctor_nvml,
                 .visible_devices = ProcessEnvironment()("CUDA_VISIBLE_DEVICES"),
                 .load_seconds = words.doctor_load_seconds},
                words.doctor_json);
}

int RunGenerate(const Words& words) {
  const absl::StatusOr<LoadedServerConfig> loaded = LoadConfig(words);
  if (!loaded.ok()) return Fail(loaded.status());
  return Generate(loaded->config, words.generate);
}

int RunBench(const CLI::App& bench, Words& words) {
  const CLI::App& command = *bench.get_subcommands().front();
  if (command.get_name() == "kernels") {
    return BenchKernels(words.kernel_bench, words.kernels_json, words.bench);
  }
  if (command.get_name() == "compare") return BenchCompare(words.report_a, words.report_b, words.compare_json);
  if (command.get_name() == "serve") return BenchServe(words.bench);
  const absl::StatusOr<LoadedServerConfig> loaded = LoadConfig(words);
  if (!loaded.ok()) return Fail(loaded.status());
  return BenchOffline(loaded->config, words.bench);
}

int RunCompletion(const CLI::App& app, const Words& words) {
  const absl::StatusOr<std::string> script = CompletionScript(words.shell, app.get_name(), CommandsOf(app));
  if (!script.ok()) return Fail(script.status());
  std::fputs(script->c_str(), stdout);
  return kExitOk;
}

// As it was typed, but for the program's path.
std::string JoinWords(int argc, char** argv) {
  std::string line = "optserve";
  for (int i = 1; i < argc; ++i) line.append(" ").append(argv[i]);
  return line;
}

int RunCommandLine(int argc, char** argv) {
  CLI::App app("A server for Meta's OPT language models", "optserve");
  app.set_version_flag("--version", "optserve " OPTSERVE_VERSION);
  app.require_subcommand(1);
  Words words;
  words.bench.command = JoinWords(argc, argv);
  AddCommands(app, words);
  const std::string first = argc > 1 ? argv[1] : "";
  const bool is_command =
      !app.get_subcommands([&](const CLI::App* command) { return command->get_name() == first; }).empty();
  if (!is_command && !first.empty() && first.front() != '-') {
    return Fail(InvalidArgument("there is no command '{}'; see optserve --help", first));
  }
  if (!is_command && !first.empty() && app.get_option_no_throw(first) == nullptr) {
    return Fail(InvalidArgument("there is no option '{}' in front of a command; see optserve --help", first));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& answer) {  // --help, --version
    return app.exit(answer);
  } catch (const CLI::ParseError& error) {
    return Fail(InvalidArgument("{}; see optserve {}--help", error.what(), is_command ? first + " " : ""));
  }
  const CLI::App& command = *app.get_subcommands().front();
  if (const absl::Status status = CheckExtras(command); !status.ok()) return Fail(status);
  if (command.get_name() == "serve") return RunServe(words);
  if (command.get_name() == "doctor") return RunDoctor(words);
  if (command.get_name() == "keys") return Keys(words.keys);
  if (command.get_name() == "generate") return RunGenerate(words);
  if (command.get_name() == "bench") return RunBench(command, words);
  if (command.get_name() == "plan") return Plan(words.plan);
  if (command.get_name() == "inspect") return Inspect(words.inspect);
  if (command.get_name() == "convert") return Convert(words.convert);
  if (command.get_name() == "verify") return Verify(words.verify);
  if (command.get_name() == "tokenize") return Tokenize(words.model, words.decode);
  return RunCompletion(app, words);
}

// No part of a process could go on without memory. An engine is replaced; a front end is started again by whoever
// supervises it, and its clients see their connections end.
void EndWithoutMemory() {
  constexpr std::string_view kLine = "optserve: out of memory\n";
  (void)!write(STDERR_FILENO, kLine.data(), kLine.size());
  _exit(1);
}

}  // namespace
}  // namespace optserve

int main(int argc, char** argv) {
  std::set_new_handler(optserve::EndWithoutMemory);
  // Not for users, hence no subcommand: see server/replicas/engine_process.h.
  if (argc == 4 && std::string_view(argv[1]) == "engine-process" && std::string_view(argv[2]) == "--fd") {
    std::_Exit(optserve::RunEngineProcess(std::atoi(argv[3]), optserve::StartLocalEngine));
  }
  if (argc >= 5 && std::string_view(argv[1]) == "engine-group" && std::string_view(argv[argc - 2]) == "--fd") {
    std::_Exit(optserve::RunEngineGroup(std::atoi(argv[argc - 1]), {argv + 2, argv + argc - 2}));
  }
  return optserve::RunCommandLine(argc, argv);
}
