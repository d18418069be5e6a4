#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "clients/cli/completion_script.h"
#include "clients/cpp/cli/complete.h"
#include "clients/cpp/cli/request_fields.h"
#include "clients/cpp/cli/score.h"
#include "clients/cpp/cli/server_access.h"
#include "clients/cpp/cli/tokenize.h"
#include "clients/cpp/cli/watch.h"

// The command line of a client: which words there are. What the commands do is in the files beside this one.

namespace optserve::cli {
namespace {

struct Words {
  ServerAccess access;
  CompleteOptions complete;
  absl::Status fields;  // the first field that could not be read
  ScoreOptions score;
  TokenizeOptions tokenize;
  WatchOptions watch;
  std::string color = "auto";
  std::string shell;
  bool models_json = false;
};

std::string Variable(const char* name, std::string otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? std::move(otherwise) : value;
}

void AddAccess(CLI::App& command, ServerAccess& access) {
  const auto add = [&](const char* flag, std::string& value, const std::string& help, const char* type) {
    command.add_option(flag, value, help)->type_name(type)->group("Server");
  };
  add("--address", access.address,
      "http://, https://, grpc:// or grpcs://HOST:PORT (default: OPTSERVE_ADDRESS, http://127.0.0.1:8000)", "ADDRESS");
  add("--api-key-file", access.api_key_file, "holds the API key (default: the key in OPTSERVE_API_KEY)", "FILE");
  add("--ca-file", access.ca_file, "certificates to trust, PEM (default: the system's)", "FILE");
  command.add_option("--timeout", access.timeout_seconds, "for a call (default: 600)")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.001, 1e6))
      ->group("Server");
}

void AddColor(CLI::App& command, Words& words) {
  command.add_option("--color", words.color, "auto, always or never (default: auto, and NO_COLOR counts)")
      ->type_name("WHEN")
      ->check(CLI::IsMember({"auto", "always", "never"}));
}

void AddField(CLI::App& command, Words& words, const RequestField& field) {
  std::string flag = "--" + std::string(field.name);
  std::replace(flag.begin(), flag.end(), '_', '-');
  const auto set = [&words, name = field.name](const std::string& text) {
    const absl::Status status = SetField(name, text, words.complete.request);
    if (words.fields.ok()) words.fields = status;
  };
  CLI::Option* option = nullptr;
  if (field.is_switch) {
    option = command.add_flag_function(
        flag, [set](int64_t) { set("true"); }, std::string(field.help));
  } else {
    option = command.add_option_function<std::string>(flag, set, std::string(field.help))->type_name("VALUE");
    if (field.is_repeated) option->trigger_on_parse();
  }
  option->group("What is asked");
}

void AddCommands(CLI::App& app, Words& words) {
  CLI::App* complete = app.add_subcommand("complete", "Go on with a text");
  complete->add_option("TEXT", words.complete.texts, "prompts (default: standard input)")->type_name("");
  complete->add_option("--file", words.complete.files, "a prompt in a file; may be given again")->type_name("FILE");
  complete->add_flag("--probabilities", words.complete.probabilities, "colour each token by its probability");
  complete->add_flag("--json", words.complete.json, "print the whole answer, a line for each prompt");
  complete->add_flag("--stats", words.complete.stats, "say on standard error how many tokens came how fast");
  AddColor(*complete, words);
  for (const RequestField& field : RequestFields()) AddField(*complete, words, field);

  CLI::App* score = app.add_subcommand("score", "Print the log likelihood of each text as JSON lines");
  score->add_option("FILE", words.score.files, "of texts, one a line (default: standard input)")->type_name("");
  score->add_option("--json-field", words.score.json_field, "lines are JSON, and this member is the text")
      ->type_name("NAME");
  score->add_flag("--whole-files", words.score.whole_files, "each file is one text");
  score->add_option("--model", words.score.model, "the name of the model (default: the one that is served)")
      ->type_name("NAME");
  score->add_option("--batch-size", words.score.batch_size, "texts in one request (default: 16)")
      ->type_name("N")
      ->check(CLI::Range(1, 256));

  CLI::App* tokenize = app.add_subcommand("tokenize", "Turn lines of text into JSON lists of token ids");
  tokenize->add_flag("--decode", words.tokenize.decode, "turn lists back into text");
  tokenize->add_flag("--no-special-tokens", words.tokenize.no_special, "no BOS in front");
  tokenize->add_option("--model", words.tokenize.model, "the name of the model")->type_name("NAME");

  CLI::App* models = app.add_subcommand("models", "List the models that are served");
  models->add_flag("--json", words.models_json, "print a JSON line for each");

  CLI::App* watch = app.add_subcommand("watch", "Show queue, KV cache and tokens/s as they change");
  watch->add_option("--interval", words.watch.interval_seconds, "seconds between two looks (default: 1)")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.05, 3600.0));
  watch->add_option("--count", words.watch.count, "end after that many looks")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 30));
  watch->add_flag("--json", words.watch.json, "print a JSON line for each look");
  AddColor(*watch, words);

  for (CLI::App* command : {complete, score, tokenize, models, watch}) AddAccess(*command, words.access);

  CLI::App* completion = app.add_subcommand("completion", "Print a script that teaches a shell these commands");
  completion->add_option("SHELL", words.shell, "bash, zsh or fish")->required()->type_name("");
}

int RunCompletion(const CLI::App& app, const Words& words) {
  const absl::StatusOr<std::string> script = CompletionScript(words.shell, app.get_name(), CommandsOf(app));
  if (!script.ok()) return Fail(script.status(), words.access);
  std::fputs(script->c_str(), stdout);
  return kExitOk;
}

int RunCommandLine(int argc, char** argv) {
  CLI::App app("A client of optserve, the server for Meta's OPT language models", "optserve-cli");
  app.set_version_flag("--version", "optserve-cli " OPTSERVE_VERSION);
  app.require_subcommand(1);
  Words words;
  words.access.address = Variable("OPTSERVE_ADDRESS", words.access.address);
  words.access.api_key = Variable("OPTSERVE_API_KEY", "");
  AddCommands(app, words);
  const std::string first = argc > 1 ? argv[1] : "";
  const std::vector<CommandWords> commands = CommandsOf(app);
  const auto is_first = [&](const CommandWords& command) { return command.name == first; };
  if (!first.empty() && first.front() != '-' && std::none_of(commands.begin(), commands.end(), is_first)) {
    return Fail(absl::InvalidArgumentError("there is no command '" + first + "'; see optserve-cli --help"),
                words.access);
  }
  if (!first.empty() && first.front() == '-' && app.get_option_no_throw(first) == nullptr) {
    return Fail(
        absl::InvalidArgumentError("there is no option '" + first + "' in front of a command; see optserve-cli --help"),
        words.access);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& answer) {  // --help, --version
    return app.exit(answer);
  } catch (const CLI::ParseError& error) {
    const std::vector<CLI::App*> named = app.get_subcommands();
    const std::string command = named.empty() ? "" : named.front()->get_name() + " ";
    return Fail(absl::InvalidArgumentError(std::string(error.what()) + "; see optserve-cli " + command + "--help"),
                words.access);
  }
  if (!words.fields.ok()) return Fail(words.fields, words.access);
  const ColorWish color = words.color == "always"  ? ColorWish::kAlways
                          : words.color == "never" ? ColorWish::kNever
                                                   : ColorWish::kAuto;
  words.complete.color = words.watch.color = color;
  const std::string name = app.get_subcommands().front()->get_name();
  if (name == "complete") return Complete(words.access, words.complete);
  if (name == "score") return ScoreTexts(words.access, words.score);
  if (name == "tokenize") return Tokenize(words.access, words.tokenize);
  if (name == "models") return ListModels(words.access, words.models_json);
  if (name == "watch") return Watch(words.access, words.watch);
  return RunCompletion(app, words);
}

}  // namespace
}  // namespace optserve::cli

int main(int argc, char** argv) { return optserve::cli::RunCommandLine(argc, argv); }
