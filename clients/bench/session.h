#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/bench/explain.h"
#include "clients/bench/load.h"
#include "clients/bench/report.h"

namespace optserve::bench {

struct SessionOptions {
  WorkloadOptions workload;
  int64_t requests = 64;      // of each load, without its warm-up
  int64_t warm_up = 8;        // first requests of each load, which count nowhere
  int32_t concurrency = 4;    // closed loop: at a time
  std::vector<double> rates;  // open loop: a load for each, requests per second; empty: closed loop
  bool even = false;          // open loop: due at equal distances, instead of as a Poisson process
  bool sweep = false;         // finds the knee: a closed loop, then rates up to and beyond what it reached
  int32_t max_in_flight = 256;
  Limits limits;
};

// What is measured, and what it says of itself.
struct Subject {
  Target& target;
  std::function<std::optional<EngineReading>()> read;  // none: it keeps no account, and nothing is explained
  std::function<std::vector<EngineStep>()> steps;      // the last ones, one by one; none: it does not tell of them
  Roof roof;
  bool in_process = false;  // client and engine share this process, and with it its processor time
  std::function<void(const std::string& line)> progress;  // a line before each load
};

// Runs the loads one after the other. command, started, target and machine of the report are left to the caller.
// InvalidArgument: MakeWorkload's; FailedPrecondition: not one request of the first load was answered.
absl::StatusOr<Report> RunSession(const SessionOptions& options, const Subject& subject);

}  // namespace optserve::bench
