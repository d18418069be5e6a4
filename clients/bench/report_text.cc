#include <fmt/format.h>

#include <algorithm>

#include "clients/bench/report.h"

namespace optserve::bench {
namespace {

void AddLatency(std::string& text, std::string_view name, const std::vector<double>& seconds) {
  const Distribution d = Describe(seconds);
  if (d.count == 0) return;
  text += fmt::format("  {:<6} ms {:>10.3f} {:>10.3f} {:>10.3f} {:>10.3f} {:>9}\n", name, d.p50 * 1e3, d.p90 * 1e3,
                      d.p99 * 1e3, d.mean * 1e3, d.count);
}

void AddLatencies(std::string& text, const Latencies& latencies) {
  text += fmt::format("  {:<9} {:>10} {:>10} {:>10} {:>10} {:>9}\n", "", "p50", "p90", "p99", "mean", "values");
  AddLatency(text, "TTFT", latencies.time_to_first_token);
  AddLatency(text, "ITL", latencies.inter_token);
  AddLatency(text, "TPOT", latencies.time_per_output_token);
  AddLatency(text, "E2E", latencies.end_to_end);
}

void AddErrors(std::string& text, const Summary& s) {
  for (const auto& [error, count] : s.errors) {
    const auto in_stream = s.errors_in_stream.find(error);
    text += fmt::format("  error: {} x {}", count, error);
    if (in_stream != s.errors_in_stream.end()) text += fmt::format(", {} of them inside streams", in_stream->second);
    text += "\n";
  }
  if (s.counted_by_usage > 0) {
    text += fmt::format(
        "  {} answers came in texts that are not a token each: tokens are those of usage, gaps are "
        "between texts\n",
        s.counted_by_usage);
  }
  if (s.counted_by_chunks > 0) {
    text += fmt::format("  {} answers without usage: what is called a token here is a text as it came (a chunk)\n",
                        s.counted_by_chunks);
  }
  if (s.merged_arrivals > 0) {
    text += fmt::format("  {} arrivals had several tokens: no gaps were seen between those\n", s.merged_arrivals);
  }
}

// "slowest of the last 812 steps: 9.12 ms (131 tokens of 4 sequences), median 0.51 ms (4 of 4)"
void AddSteps(std::string& text, std::vector<EngineStep> steps) {
  if (steps.empty()) return;
  std::ranges::sort(steps, {}, &EngineStep::seconds);
  const EngineStep& slowest = steps.back();
  const EngineStep& median = steps[steps.size() / 2];
  text += fmt::format(
      "  the slowest of the last {} steps took {:.3f} ms ({} tokens of {} sequences), the median {:.3f} ms "
      "({} of {})\n",
      steps.size(), slowest.seconds() * 1e3, slowest.tokens, slowest.sequences, median.seconds() * 1e3, median.tokens,
      median.sequences);
}

void AddExplanation(std::string& text, const Explanation& e, const Roof& roof) {
  text += fmt::format("  where the {:.3f} ms of a token go (latencies of all requests by their {} tokens):\n",
                      e.seconds_per_token * 1e3, e.tokens);
  for (const Part& part : e.parts) {
    text += fmt::format("    {:<10} {:>8.3f} ms {:>5.1f} %", part.name, part.seconds * 1e3,
                        100 * part.seconds / e.seconds_per_token);
    if (part.least > 0) text += fmt::format("   at least {:.3f} ms", part.least * 1e3);
    text += fmt::format("   {}\n", part.what);
  }
  text += fmt::format("    {:<10} {:>8.3f} ms {:>5.1f} %\n", "together", e.explained * e.seconds_per_token * 1e3,
                      100 * e.explained);
  if (roof.bytes_per_second > 0) {
    text += fmt::format("  the least for this at {:.1f} GB/s and {:.0f} GFLOP/s is {:.1f} % of it\n",
                        roof.bytes_per_second * 1e-9, roof.flops * 1e-9, 100 * e.least);
  }
  AddSteps(text, e.last_steps);
  if (e.explained < 0.97 || e.explained > 1.03) {
    text += "  WARNING: the parts do not sum to the whole within 3 %: do not build on them\n";
  }
}

void AddRun(std::string& text, const Run& run, const Report& report) {
  const Summary& s = run.summary;
  text += fmt::format("\n{}: {} requests", run.name, s.requests);
  if (run.warm_up > 0) text += fmt::format(" after {} of warm-up", run.warm_up);
  text += fmt::format(", {} answered whole, {:.2f} s\n", s.answered, s.seconds);
  AddErrors(text, s);
  AddLatencies(text, s.latencies);
  for (const auto& [kind, latencies] : s.by_kind) {
    text += fmt::format("  of kind {}:\n", kind);
    AddLatencies(text, latencies);
  }
  text += fmt::format("  {:.2f} requests/s, {:.1f} output tokens/s, {:.1f} tokens/s with prompts ({} in, {} out)\n",
                      s.requests_per_second, s.output_tokens_per_second, s.total_tokens_per_second, s.prompt_tokens,
                      s.output_tokens);
  if (s.has_limits) {
    text +=
        fmt::format("  goodput {:.2f} requests/s: {:.1f} % of all within the limits\n", s.goodput, 100 * s.good_share);
  }
  if (run.explanation.has_value()) AddExplanation(text, *run.explanation, report.roof);
  for (const std::string& why : run.client_limits) {
    text += fmt::format("  WARNING: limited by the client: {}\n", why);
  }
}

}  // namespace

std::string ReportText(const Report& report) {
  std::string text = fmt::format("{}\nworkload {}, seed {}; {}\n", report.target, report.workload.name,
                                 report.workload.seed, report.machine);
  for (const Run& run : report.runs) AddRun(text, run, report);
  if (report.is_sweep && report.knee >= 0) {
    text += fmt::format("\nknee: {}\n", report.runs[report.knee].name);
  } else if (report.is_sweep) {
    text += "\nknee: below the lowest load\n";
  }
  return text;
}

}  // namespace optserve::bench
