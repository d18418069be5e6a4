#include "clients/bench/explain.h"

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace optserve::bench {
namespace {

struct PhaseText {
  std::string_view name;
  std::string_view what;
};
constexpr PhaseText kPhases[] = {
    {"weights", "reading weights and multiplying with them"},
    {"attention", "reading the KV cache and multiplying with it"},
    {"all_reduce", "adding up over ranks"},
    {"kernels", "small kernels: norms, embeddings, residuals, writing the KV cache"},
    {"sampling", "drawing tokens"},
    {"gaps", "launches, and gaps between kernels"},
    {"device", "a device's kernels, not divided"},
    {"host", "planning, the inputs of a step, bookkeeping, handing out"},
};

std::string WhatIs(std::string_view phase) {
  for (const PhaseText& text : kPhases) {
    if (text.name == phase) return std::string(text.what);
  }
  return "";
}

// The value of `series`, such as `a_total{phase="weights"}`, if the text has it.
std::optional<double> ValueOf(std::string_view text, std::string_view series) {
  for (size_t at = text.find(series); at != text.npos; at = text.find(series, at + 1)) {
    const bool at_line_start = at == 0 || text[at - 1] == '\n';
    const size_t end = at + series.size();
    if (!at_line_start || end >= text.size() || text[end] != ' ') continue;
    return std::strtod(std::string(text.substr(end + 1, text.find('\n', end) - end - 1)).c_str(), nullptr);
  }
  return std::nullopt;
}

std::optional<EngineAccount> ReadAccount(std::string_view text, std::string_view of) {
  EngineAccount account;
  for (const PhaseText& phase : kPhases) {
    const std::optional<double> seconds = ValueOf(
        text,
        absl::StrCat("optserve_", std::string(of), "_phase_seconds_total{phase=\"", std::string(phase.name), "\"}"));
    if (!seconds.has_value()) return std::nullopt;
    account.phase_seconds.emplace_back(phase.name, *seconds);
  }
  const auto demand = [&](std::string_view kind) {
    return ValueOf(text, absl::StrCat("optserve_", std::string(of), "_demand_total{kind=\"", std::string(kind), "\"}"))
        .value_or(0.0);
  };
  account.weight_bytes = demand("weight_bytes");
  account.kv_bytes = demand("kv_bytes");
  account.weight_flops = demand("weight_flops");
  account.attention_flops = demand("attention_flops");
  return account;
}

void Subtract(const EngineAccount& earlier, EngineAccount& later) {
  for (auto& [name, seconds] : later.phase_seconds) {
    const auto before = std::ranges::find(earlier.phase_seconds, name, &std::pair<std::string, double>::first);
    if (before != earlier.phase_seconds.end()) seconds -= before->second;
  }
  later.weight_bytes -= earlier.weight_bytes;
  later.kv_bytes -= earlier.kv_bytes;
  later.weight_flops -= earlier.weight_flops;
  later.attention_flops -= earlier.attention_flops;
}

using Json = nlohmann::json;

EngineStep ReadStep(const Json& json) {
  EngineStep step{.begin = json.at("begin_ns").get<double>() * 1e-9,
                  .replica = json.at("replica").get<int32_t>(),
                  .tokens = json.at("tokens").get<int64_t>(),
                  .sequences = json.at("sequences").get<int64_t>(),
                  .account = {.weight_bytes = json.at("weight_bytes").get<double>(),
                              .kv_bytes = json.at("kv_bytes").get<double>(),
                              .weight_flops = json.at("weight_flops").get<double>(),
                              .attention_flops = json.at("attention_flops").get<double>()}};
  for (const PhaseText& phase : kPhases) {
    const double ns = json.at("phase_ns").at(std::string(phase.name)).get<double>();
    step.account.phase_seconds.emplace_back(phase.name, ns * 1e-9);
  }
  return step;
}

// What of a request's latency is the client's own.
double ClientSeconds(const RequestRecord& record) { return record.sent - record.due + record.own_seconds; }

// Reading and multiplying can overlap: the longer of the two is the least.
double Least(const Roof& roof, double bytes, double flops) {
  const double reading = roof.bytes_per_second > 0 ? bytes / roof.bytes_per_second : 0.0;
  const double multiplying = roof.flops > 0 ? flops / roof.flops : 0.0;
  return std::max(reading, multiplying);
}

std::vector<Part> PartsOf(const EngineAccount& account, const Roof& roof, double divisor) {
  std::vector<Part> parts;
  for (const auto& [name, seconds] : account.phase_seconds) {
    Part part{.name = name, .what = WhatIs(name), .seconds = seconds / divisor};
    if (name == "weights") part.least = Least(roof, account.weight_bytes, account.weight_flops) / divisor;
    if (name == "attention") part.least = Least(roof, account.kv_bytes, account.attention_flops) / divisor;
    parts.push_back(std::move(part));
  }
  return parts;
}

}  // namespace

std::optional<EngineReading> ReadMetrics(std::string_view text) {
  const std::optional<EngineAccount> step = ReadAccount(text, "step");
  const std::optional<EngineAccount> request = ReadAccount(text, "request");
  const std::optional<double> queue = ValueOf(text, "optserve_request_queue_seconds_sum");
  const std::optional<double> steps = ValueOf(text, "optserve_step_seconds_count");
  const std::optional<double> engine = ValueOf(text, "optserve_request_engine_seconds_total");
  const std::optional<double> serving = ValueOf(text, "optserve_request_serving_seconds_total");
  if (!step.has_value() || !request.has_value() || !queue.has_value() || !steps.has_value()) return std::nullopt;
  if (!engine.has_value() || !serving.has_value()) return std::nullopt;
  return EngineReading{.step = *step,
                       .request = *request,
                       .queue_seconds = *queue,
                       .steps = *steps,
                       .engine_seconds = *engine,
                       .serving_seconds = *serving};
}

double EngineStep::seconds() const {
  double sum = 0.0;
  for (const auto& [name, phase] : account.phase_seconds) sum += phase;
  return sum;
}

std::vector<EngineStep> ReadSteps(std::string_view json) {
  std::vector<EngineStep> steps;
  try {
    const Json answer = Json::parse(json);
    for (const Json& step : answer.at("steps")) steps.push_back(ReadStep(step));
  } catch (const Json::exception&) {
    return {};
  }
  return steps;
}

EngineReading Since(const EngineReading& earlier, EngineReading later) {
  Subtract(earlier.step, later.step);
  Subtract(earlier.request, later.request);
  later.queue_seconds -= earlier.queue_seconds;
  later.steps -= earlier.steps;
  later.engine_seconds -= earlier.engine_seconds;
  later.serving_seconds -= earlier.serving_seconds;
  return later;
}

Explanation Explain(const EngineReading& reading, std::span<const RequestRecord> records, const Roof& roof) {
  Explanation result;
  double wall = 0.0;
  double client = 0.0;
  for (const RequestRecord& record : records) {
    wall += record.ended - record.due;
    client += ClientSeconds(record);
    result.tokens += record.num_tokens();
  }
  if (result.tokens == 0 || wall <= 0) return result;
  const auto tokens = static_cast<double>(result.tokens);
  result.seconds_per_token = wall / tokens;
  result.parts = PartsOf(reading.request, roof, tokens);
  result.parts.push_back(
      {.name = "queue", .what = "waiting for the first step", .seconds = reading.queue_seconds / tokens});
  result.parts.push_back({.name = "front_end",
                          .what = "the server around the engine: JSON, texts, the way to the engine and back",
                          .seconds = (reading.serving_seconds - reading.engine_seconds) / tokens});
  result.parts.push_back({.name = "wire",
                          .what = "sockets, and waking who waits for them",
                          .seconds = (wall - client - reading.serving_seconds) / tokens});
  result.parts.push_back(
      {.name = "client", .what = "the client: sending late, its own work", .seconds = client / tokens});
  for (const Part& part : result.parts) {
    result.explained += part.seconds / result.seconds_per_token;
    result.least += part.least / result.seconds_per_token;
  }
  result.steps = reading.steps;
  result.step_parts = PartsOf(reading.step, roof, 1.0);
  for (const Part& part : result.step_parts) result.steps_seconds += part.seconds;
  return result;
}

std::vector<std::string> ClientLimits(const LoadResult& result, const Summary& summary, bool in_process, bool is_open) {
  constexpr double kCpuShare = 0.5;
  constexpr double kOwnShare = 0.1;
  std::vector<std::string> why;
  const double late_limit = std::max(0.002, 0.1 * Quantile(summary.latencies.end_to_end, 0.5));
  if (is_open && summary.late_p99 > late_limit) {
    why.push_back(fmt::format("1 of 100 requests was sent {:.1f} ms late or more", summary.late_p99 * 1e3));
  }
  const double cpus = static_cast<double>(std::max(1u, std::thread::hardware_concurrency()));
  const double share = result.wall_seconds > 0 ? result.cpu_seconds / result.wall_seconds / cpus : 0.0;
  if (!in_process && share > kCpuShare) {
    why.push_back(fmt::format("the client took {:.0f} % of this machine's processors", 100 * share));
  }
  double own = 0.0;
  double all = 0.0;
  for (const RequestRecord& record : result.records) {
    own += record.own_seconds;
    all += record.ended - record.sent;
  }
  if (own > kOwnShare * all) {
    why.push_back(fmt::format("{:.0f} % of the time of requests passed in the client itself", 100 * own / all));
  }
  return why;
}

}  // namespace optserve::bench
