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
};

// From the text of /metrics. None: this server keeps no account.
std::optional<EngineReading> ReadMetrics(std::string_view text);

// What has come since `earlier`.
EngineReading Since(const EngineReading& earlier, EngineReading later);

// What the server's machine can do at best, measured.
struct Roof {
  double bytes_per_second = 0.0;  // 0: not known
  double flops = 0.0;             // f32 multiply-adds, 2 flops each
};

// What a request costs beside queue and steps: measured on the idle server, with requests for one token, as what their
// latency has beyond their steps.
struct RequestOverhead {
  double wire_seconds = 0.0;    // sockets and the front end, both ways
  double client_seconds = 0.0;  // the client's own work
};

struct Part {
  std::string name;
  std::string what;
  double seconds = 0.0;  // per token
  double least = 0.0;    // what the roof allows; 0: nothing must be read or multiplied, or the roof is not known
};

// How the time divides that requests took, by output tokens.
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
};

// `records` are all requests between the two readings, the warm-up's too.
Explanation Explain(const EngineReading& reading, std::span<const RequestRecord> records, const Roof& roof,
                    const RequestOverhead& overhead);

// Why a run says more of the client than of the server; empty: it does not.
// With the engine in this process its processor time is not the client's alone, and is not judged.
std::vector<std::string> ClientLimits(const LoadResult& result, const Summary& summary, bool in_process, bool is_open);

}  // namespace optserve::bench
