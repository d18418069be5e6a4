#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "clients/bench/workload.h"

namespace optserve::bench {

// How a request ended.
struct Outcome {
  std::string error;          // its class, such as "429 rate_limit_exceeded"; empty: answered whole
  std::string message = {};   // of the error, for people; empty: there is nothing to add
  bool in_stream = false;     // the error came when tokens had already come
  int64_t prompt_tokens = 0;  // as the server counted them; 0: it did not say
  int64_t output_tokens = 0;  // likewise
  // Of the client's own way: when the request went to the socket, and when the last piece of the answer that was
  // waited for had come. None: there was no socket.
  std::optional<std::chrono::steady_clock::time_point> handed_over = {};
  std::optional<std::chrono::steady_clock::time_point> received = {};
};

// Whoever answers requests: a server through a client library, or an engine in this process. Any thread may call.
class Target {
 public:
  virtual ~Target() = default;

  // Returns when the answer has ended. `on_tokens` is called as tokens come, with how many came at once: from any
  // thread, but one call at a time and none after the return.
  virtual Outcome Complete(const LoadRequest& request, const std::function<void(int num_tokens)>& on_tokens) = 0;
};

// What became of one request. Times are seconds since the beginning of the load.
struct RequestRecord {
  int64_t index = 0;
  std::string kind;
  double due = 0.0;   // when it should have been sent; latencies count from then on
  double sent = 0.0;  // and when it was
  double ended = 0.0;
  double own_seconds = 0.0;         // of the client between sent and ended, while nobody else had the request
  std::vector<double> token_times;  // when tokens came, an entry for each arrival
  std::vector<int32_t> token_counts;
  Outcome outcome;

  int64_t num_tokens() const;
};

struct LoadOptions {
  // Closed loop: so many requests at a time, each due when the one before it has ended. Open loop: so many at most;
  // what is due then waits, and its latency counts from when it was due, so that a server which stalls is charged with
  // everything that it kept waiting (coordinated omission, Tene 2013).
  int32_t max_in_flight = 1;
  std::vector<double> due;                  // open loop: one for each request, ascending; empty: closed loop
  const std::atomic<bool>* stop = nullptr;  // true: nothing more is sent
};

struct LoadResult {
  std::vector<RequestRecord> records;  // by index
  double cpu_seconds = 0.0;            // of this whole process
  double wall_seconds = 0.0;
};

LoadResult RunLoad(Target& target, std::span<const LoadRequest> requests, const LoadOptions& options);

}  // namespace optserve::bench
