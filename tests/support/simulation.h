#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/executor/simulated_executor.h"
#include "engine/scheduler/scheduler.h"

namespace optserve {

// The real scheduler and the simulated executor on a virtual clock, and how long everybody waited.
class Simulation {
 public:
  struct Record {
    int64_t arrival_ns = 0;
    int64_t first_token_ns = 0;  // 0: none yet
    int64_t finish_ns = 0;       // 0: not finished
    int32_t num_tokens = 0;
    uint64_t token_hash = 0;  // of all its tokens in order
    double longest_gap_seconds = 0.0;
    double ttft_seconds() const { return static_cast<double>(first_token_ns - arrival_ns) / 1e9; }
  };

  Simulation(CostModel model, const SimulatedExecutor::Options& executor,
             const std::function<void(SchedulerOptions&)>& change_options = nullptr);

  // Requests may come in any order of time; each is added when its time has come.
  void Arrive(double seconds, GenerateRequest request);

  // What the host does between two steps takes so long; with two steps in flight, the device computes meanwhile.
  void SetHost(double seconds_per_step, int32_t max_steps_in_flight) {
    host_seconds_ = seconds_per_step;
    max_steps_in_flight_ = max_steps_in_flight;
  }

  // Steps until that time, or, by default, until nothing is left to do. A request that finishes is told to
  // `on_finish`, which may let others arrive.
  void Run(double until_seconds = 1e12);

  double now_seconds() const { return static_cast<double>(clock_.now_ns()) / 1e9; }
  const Record& record(RequestId id) const { return records_.at(id); }
  const std::unordered_map<RequestId, Record>& records() const { return records_; }
  Scheduler& scheduler() { return *scheduler_; }
  uint64_t num_steps() const { return num_steps_; }

  std::function<void(RequestId)> on_finish;
  std::function<void(const StepPlan&)> on_plan;

 private:
  void TakeEvents();

  VirtualClock clock_;
  SimulatedExecutor executor_;
  std::unique_ptr<Scheduler> scheduler_;
  std::multimap<int64_t, GenerateRequest> arrivals_;
  std::unordered_map<RequestId, Record> records_;
  std::unordered_map<RequestId, int64_t> last_token_ns_;
  uint64_t num_steps_ = 0;
  double host_seconds_ = 0.0;
  int32_t max_steps_in_flight_ = 1;
};

// The smallest value that `fraction` of the values do not exceed.
double Percentile(std::vector<double> values, double fraction);

}  // namespace optserve
