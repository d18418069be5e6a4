#include "server/commands/bench_words.h"

#include <cmath>
#include <string>

namespace optserve {
namespace {

void AddWorkload(CLI::App& command, bench::WorkloadOptions& workload) {
  const auto add = [&command](const char* flag, auto& value, const char* help) {
    return command.add_option(flag, value, help)->capture_default_str()->group("Workload");
  };
  add("--workload", workload.name, "fixed, sharegpt, shared-prefix, prefill-heavy or interference");
  add("--prompt-tokens", workload.prompt_tokens, "of a request")->type_name("N")->check(CLI::Range(1, 1 << 20));
  add("--output-tokens", workload.output_tokens, "of an answer")->type_name("N")->check(CLI::Range(1, 1 << 20));
  add("--prefix-tokens", workload.prefix_tokens, "that all prompts of shared-prefix share")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 20));
  add("--length-scale", workload.length_scale, "of sharegpt's lengths")
      ->type_name("FACTOR")
      ->check(CLI::Range(0.001, 100.0));
  add("--max-length", workload.max_length, "prompt and answer together, at most")
      ->type_name("N")
      ->check(CLI::Range(2, 1 << 20));
  add("--vocab-size", workload.vocab_size, "prompts are ids below it")->type_name("N")->check(CLI::Range(5, 1 << 24));
  add("--seed", workload.seed, "the same seed, the same requests")->type_name("N");
}

// CLI11's own says up to where, in three hundred digits.
const CLI::Validator kPositive(
    [](std::string& text) -> std::string {
      double value = 0.0;
      const bool is_number = CLI::detail::lexical_cast(text, value);
      return is_number && value > 0 && std::isfinite(value) ? "" : "it is " + text + ", but must be a number above 0";
    },
    "POSITIVE");

// Milliseconds on the command line.
void AddLimit(CLI::App& command, const char* flag, double& seconds, const char* help) {
  command
      .add_option_function<double>(
          flag, [&seconds](double ms) { seconds = ms * 1e-3; }, help)
      ->type_name("MS")
      ->check(kPositive)
      ->group("Limits, for goodput");
}

}  // namespace

void AddBenchOptions(CLI::App& command, BenchOptions& options) {
  bench::SessionOptions& session = options.session;
  AddWorkload(command, session.workload);
  const auto add = [&command](const char* flag, auto& value, const char* help) {
    return command.add_option(flag, value, help)->capture_default_str()->group("Load");
  };
  add("--requests", session.requests, "of each load")->type_name("N")->check(CLI::Range(1, 1'000'000));
  add("--warm-up", session.warm_up, "requests before them, which do not count")
      ->type_name("N")
      ->check(CLI::Range(0, 1'000'000));
  add("--concurrency", session.concurrency, "closed loop: requests at a time")
      ->type_name("N")
      ->check(CLI::Range(1, 4096));
  command
      .add_option("--rate", session.rates,
                  "open loop: requests per second, as a Poisson process; several: one load after the other")
      ->type_name("R,...")
      ->delimiter(',')
      ->check(kPositive)
      ->group("Load");
  command.add_flag("--even", session.even, "open loop: at equal distances instead")->group("Load");
  command.add_flag("--sweep", session.sweep, "a closed loop, then rates up to the knee and beyond")
      ->excludes("--rate")
      ->group("Load");
  add("--max-in-flight", session.max_in_flight, "open loop: requests under way at most; more wait, and that counts")
      ->type_name("N")
      ->check(CLI::Range(1, 4096));
  AddLimit(command, "--limit-ttft", session.limits.time_to_first_token, "to the first token");
  AddLimit(command, "--limit-tpot", session.limits.time_per_output_token, "for each token after it");
  AddLimit(command, "--limit-e2e", session.limits.end_to_end, "for the whole answer");
  AddReportFile(command, "--json", options.outputs.json, "everything, for bench compare");
  AddReportFile(command, "--csv", options.outputs.csv, "a line for each request");
  AddReportFile(command, "--html", options.outputs.html, "one page with plots, which needs nothing else");
  command.add_flag("--no-roof", options.no_roof, "do not measure what this machine can do at best");
}

void AddReportFile(CLI::App& command, const char* flag, std::string& path, const char* help) {
  command.add_option(flag, path, help)->type_name("FILE")->group("Reports, beside the one on standard output");
}

void AddBenchServer(CLI::App& command, BenchServer& server) {
  const auto add = [&command](const char* flag, auto& value, const char* help) {
    return command.add_option(flag, value, help)->capture_default_str()->group("Server");
  };
  add("--url", server.address, "http://HOST:PORT, https:// or, for our gRPC, grpc://HOST:PORT, grpcs://")
      ->type_name("URL");
  add("--api-key", server.api_key, "sent as a bearer token")->type_name("KEY")->envname("OPTSERVE_API_KEY");
  add("--ca-file", server.ca_file, "certificates to trust, PEM; else the system's")->type_name("FILE");
  add("--metrics-url", server.metrics_address, "where /metrics are, if not at --url")->type_name("URL");
  add("--model", server.model, "that requests name; optserve needs none")->type_name("NAME");
  command
      .add_flag(
          "--plain", server.plain,
          "for servers that know OpenAI's own fields only: prompts of words, some as many tokens; answers may end "
          "early")
      ->group("Server");
  add("--timeout", server.timeout_seconds, "of a request")->type_name("SECONDS")->check(kPositive);
}

}  // namespace optserve
