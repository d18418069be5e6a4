#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "engine/executor/executor.h"

namespace optserve {

// Runs the steps of another executor on a thread of its own, so that the engine plans the next one and hands out events
// meanwhile. Two steps may be under way: one runs, and the one behind it begins without waiting for the engine.
class OverlappedExecutor final : public Executor {
 public:
  explicit OverlappedExecutor(std::unique_ptr<Executor> inner);
  ~OverlappedExecutor() override;  // waits for the step that runs; the others are dropped

  absl::StatusOr<StartResult> Start(const LoadProgress& progress) override;
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override;
  void Submit(const StepPlan& plan) override;
  absl::StatusOr<StepResult> Collect() override;
  std::string WhoIsBehind() const override { return inner_->WhoIsBehind(); }
  absl::Status Health() const override { return inner_->Health(); }

 private:
  void Run();

  const std::unique_ptr<Executor> inner_;
  std::mutex mu_;
  std::condition_variable changed_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  const LoadProgress* start_ ABSL_GUARDED_BY(mu_) = nullptr;  // it is to start
  std::unique_ptr<absl::StatusOr<StartResult>> started_ ABSL_GUARDED_BY(mu_);
  std::deque<const StepPlan*> submitted_ ABSL_GUARDED_BY(mu_);
  std::deque<absl::StatusOr<StepResult>> results_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

}  // namespace optserve
