#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "clients/bench/load.h"
#include "clients/bench/summary.h"

namespace optserve::bench {

// A server's own account of its steps, as its counters have it at one moment.
struct EngineAccount {
  std::vector<std::pair<std::string, double>> phase_seconds;  // "weights", "attention", ...
  double weight_bytes = 0.0;                                  // that had to be read at least
  double kv_bytes = 0.0;
  double weight_flops = 0.0;
  double attention_flops = 0.0;
};

struct EngineReading {
  EngineAccount step;          // each step once
  EngineAccount request;       // each step once for every sequence in it
  double queue_seconds = 0.0;  // from requests' arrivals to their first steps, summed
  double steps = 0.0;
  // Summed over requests that have ended: from when the engine took one until its last event was there; and from when
  // the server had read one until all of its answer was made. An engine in this process has no server around it: equal.
  double engine_seconds = 0.0;
  double serving_seconds = 0.0;
};

// From the text of /metrics. None: this server keeps no account.
std::optional<EngineReading> ReadMetrics(std::string_view text);

// One step of an engine as it was.
struct EngineStep {
  double begin = 0.0;  // seconds, on the engine's clock
  int32_t replica = 0;
  int64_t tokens = 0;
  int64_t sequences = 0;
  EngineAccount account;

  double seconds() const;
};

// From the JSON of /debug/steps. Empty: it is none.
std::vector<EngineStep> ReadSteps(std::string_view json);

// What has come since `earlier`.
EngineReading Since(const EngineReading& earlier, EngineReading later);

// What the server's machine can do at best, measured.
struct Roof {
  double bytes_per_second = 0.0;  // 0: not known
  double flops = 0.0;             // f32 multiply-adds, 2 flops each
};

struct Part {
  std::string name;
  std::string what;
  double seconds = 0.0;  // per token
  double least = 0.0;    // what the roof allows; 0: nothing must be read or multiplied, or the roof is not known
};

// How the time divides that requests took, by output tokens. Each border between two parts is a moment that somebody
// noted, and the parts lie within each other:
//
//   client     due, sent, ended: by the load; what of it no socket had the request in: by the client library
//   wire       what is left of sent to ended beside the server's own time, which the server noted
//   front end  what is left of that beside the engine's time, which the engine noted
//   the rest   what the engine noted of queue and steps, a clock for each: nothing makes these sum to the engine's
//   time,
//              unless they are right
struct Explanation {
  double seconds_per_token = 0.0;  // all requests' end-to-end latencies by all their tokens
  std::vector<Part> parts;
  double explained = 0.0;  // sum of the parts, as a share of seconds_per_token: 1, or somebody does not measure right
  double least = 0.0;      // sum of what the roof allows, as a share of seconds_per_token
  int64_t tokens = 0;

  // The engine's steps, each once: their seconds by phase, summed over all of them.
  std::vector<Part> step_parts;
  double steps_seconds = 0.0;
  double steps = 0.0;
  std::vector<EngineStep> last_steps;  // as many as the engine remembers, oldest first
};

// `records` are all requests between the two readings, the warm-up's too.
Explanation Explain(const EngineReading& reading, std::span<const RequestRecord> records, const Roof& roof);

// Why a run says more of the client than of the server; empty: it does not. `result.records` are all requests.
// With the engine in this process its processor time is not the client's alone, and is not judged.
std::vector<std::string> ClientLimits(const LoadResult& result, const Summary& summary, bool in_process, bool is_open);

}  // namespace optserve::bench
