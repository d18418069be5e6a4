#pragma once

#include <cstdint>
#include <deque>

#include "absl/status/statusor.h"
#include "engine/executor/executor.h"
#include "engine/planner/cost_model.h"

namespace optserve {

// Time that passes only when somebody says so. Nanoseconds, as deadlines.
class VirtualClock {
 public:
  int64_t now_ns() const { return now_ns_; }
  void Advance(double seconds) { now_ns_ += static_cast<int64_t>(seconds * 1e9); }
  void AdvanceTo(int64_t time_ns) { now_ns_ = time_ns > now_ns_ ? time_ns : now_ns_; }

 private:
  int64_t now_ns_ = 0;
};

// An executor without tensors: a step takes the time that the cost model says, on a virtual clock, and its tokens are a
// hash of (seed, choice, position), so that the same traffic gives the same answers on any schedule. For testing what
// the scheduler decides on days of traffic.
class SimulatedExecutor : public Executor {
 public:
  struct Options {
    int32_t num_blocks = 0;  // 0: what the cost model says that the memory holds
    int32_t block_size = 16;
    int32_t max_num_seqs = 256;
  };

  // `clock` outlives the executor.
  SimulatedExecutor(CostModel model, const Options& options, VirtualClock* clock);

  absl::StatusOr<StartResult> Start(const LoadProgress& progress) override;
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override;
  // The device does one step after the other, whatever the clock's owner does meanwhile; Collect waits.
  void Submit(const StepPlan& plan) override;
  absl::StatusOr<StepResult> Collect() override;

 private:
  const CostModel model_;
  const Options options_;
  VirtualClock* const clock_;

  struct Step {
    int64_t end_ns = 0;
    StepResult result;
  };
  // Ids do not depend on the tokens before them, so they are known at once.
  StepResult ResultOf(const StepPlan& plan) const;
  std::deque<Step> steps_;      // under way
  int64_t device_free_ns_ = 0;  // when they have ended
};

}  // namespace optserve
