#include "clients/bench/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

namespace optserve::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxSamples = 20'000;

Json ToJson(const Distribution& d) {
  const auto ms = [](double seconds) { return seconds * 1e3; };
  return {{"count", d.count}, {"mean", ms(d.mean)}, {"min", ms(d.min)}, {"p50", ms(d.p50)},
          {"p90", ms(d.p90)}, {"p99", ms(d.p99)},   {"max", ms(d.max)}};
}

// Milliseconds, to the microsecond.
Json Samples(const std::vector<double>& seconds) {
  Json list = Json::array();
  const size_t count = std::min(seconds.size(), kMaxSamples);
  for (size_t i = 0; i < count; ++i) {
    const double value = seconds[i * seconds.size() / count];
    list.push_back(std::round(value * 1e6) / 1e3);
  }
  return list;
}

Json ToJson(const Latencies& l) {
  return {{"ttft_ms", ToJson(Describe(l.time_to_first_token))},
          {"itl_ms", ToJson(Describe(l.inter_token))},
          {"tpot_ms", ToJson(Describe(l.time_per_output_token))},
          {"e2e_ms", ToJson(Describe(l.end_to_end))}};
}

Json ToJson(const std::vector<Part>& parts) {
  Json list = Json::array();
  for (const Part& part : parts) {
    list.push_back(
        {{"name", part.name}, {"what", part.what}, {"ms", part.seconds * 1e3}, {"least_ms", part.least * 1e3}});
  }
  return list;
}

// Milliseconds to the microsecond; the first begins at 0.
Json ToJson(const std::vector<EngineStep>& steps) {
  const auto ms = [](double seconds) { return std::round(seconds * 1e6) / 1e3; };
  Json list = Json::array();
  for (const EngineStep& step : steps) {
    Json entry = {{"begin_ms", ms(step.begin - steps.front().begin)},
                  {"replica", step.replica},
                  {"tokens", step.tokens},
                  {"sequences", step.sequences}};
    for (const auto& [name, seconds] : step.account.phase_seconds) {
      if (seconds > 0) entry["ms"][name] = ms(seconds);
    }
    list.push_back(std::move(entry));
  }
  return list;
}

Json ToJson(const Explanation& e) {
  return {{"ms_per_token", e.seconds_per_token * 1e3},
          {"tokens", e.tokens},
          {"explained", e.explained},
          {"least", e.least},
          {"parts", ToJson(e.parts)},
          {"steps", e.steps},
          {"steps_ms", e.steps_seconds * 1e3},
          {"step_parts", ToJson(e.step_parts)},
          {"last_steps", ToJson(e.last_steps)}};
}

Json ToJson(const Summary& s) {
  Json json = {{"requests", s.requests},
               {"answered", s.answered},
               {"errors", s.errors},
               {"errors_in_stream", s.errors_in_stream},
               {"prompt_tokens", s.prompt_tokens},
               {"output_tokens", s.output_tokens},
               {"answers_counted_by",
                {{"tokens", s.counted_exactly}, {"usage", s.counted_by_usage}, {"chunks", s.counted_by_chunks}}},
               {"merged_arrivals", s.merged_arrivals},
               {"seconds", s.seconds},
               {"requests_per_second", s.requests_per_second},
               {"output_tokens_per_second", s.output_tokens_per_second},
               {"total_tokens_per_second", s.total_tokens_per_second}};
  if (s.has_limits) {
    json["good_share"] = s.good_share;
    json["goodput"] = s.goodput;
  }
  json["late_p99_ms"] = s.late_p99 * 1e3;
  json["latency"] = ToJson(s.latencies);
  for (const auto& [kind, latencies] : s.by_kind) json["latency_by_kind"][kind] = ToJson(latencies);
  return json;
}

Json ToJson(const Run& run) {
  Json json = {{"name", run.name},
               {"offered_rate", run.offered_rate},
               {"max_in_flight", run.max_in_flight},
               {"warm_up", run.warm_up},
               {"summary", ToJson(run.summary)}};
  if (run.explanation.has_value()) json["explain"] = ToJson(*run.explanation);
  json["client_limits"] = run.client_limits;
  const Latencies& l = run.summary.latencies;
  json["samples"] = {{"ttft_ms", Samples(l.time_to_first_token)},
                     {"itl_ms", Samples(l.inter_token)},
                     {"tpot_ms", Samples(l.time_per_output_token)},
                     {"e2e_ms", Samples(l.end_to_end)},
                     {"tokens_per_second", run.summary.tokens_per_second}};
  return json;
}

// Quoted, as RFC 4180 has it.
std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

}  // namespace

std::string ReportJson(const Report& report) {
  const WorkloadOptions& w = report.workload;
  Json json = {{"format", "optserve-bench-1"},
               {"command", report.command},
               {"started", report.started},
               {"target", report.target},
               {"machine", report.machine},
               {"workload",
                {{"name", w.name},
                 {"prompt_tokens", w.prompt_tokens},
                 {"output_tokens", w.output_tokens},
                 {"prefix_tokens", w.prefix_tokens},
                 {"length_scale", w.length_scale},
                 {"seed", w.seed}}},
               {"limits_ms",
                {{"ttft", report.limits.time_to_first_token * 1e3},
                 {"tpot", report.limits.time_per_output_token * 1e3},
                 {"e2e", report.limits.end_to_end * 1e3}}},
               {"roof", {{"read_bytes_per_second", report.roof.bytes_per_second}, {"flops", report.roof.flops}}}};
  if (report.is_sweep) json["knee"] = report.knee;
  json["runs"] = Json::array();
  for (const Run& run : report.runs) json["runs"].push_back(ToJson(run));
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string ReportCsv(const Report& report) {
  std::string csv =
      "run,request,kind,warm_up,due_s,sent_s,first_token_s,last_token_s,ended_s,prompt_tokens,output_tokens,tokens_"
      "seen,"
      "error,error_in_stream\n";
  for (const Run& run : report.runs) {
    for (const RequestRecord& r : run.records) {
      const bool any = !r.token_times.empty();
      csv += fmt::format("{},{},{},{},{:.6f},{:.6f},{},{},{:.6f},{},{},{},{},{}\n", Quoted(run.name), r.index, r.kind,
                         r.index < run.warm_up ? 1 : 0, r.due, r.sent,
                         any ? fmt::format("{:.6f}", r.token_times.front()) : "",
                         any ? fmt::format("{:.6f}", r.token_times.back()) : "", r.ended, r.outcome.prompt_tokens,
                         r.outcome.output_tokens, r.num_tokens(), Quoted(r.outcome.error), r.outcome.in_stream ? 1 : 0);
    }
  }
  return csv;
}

}  // namespace optserve::bench
