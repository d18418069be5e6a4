#include "engine/executor/overlapped_executor.h"

#include <utility>

namespace optserve {

OverlappedExecutor::OverlappedExecutor(std::unique_ptr<Executor> inner)
    : inner_(std::move(inner)), thread_([this] { Run(); }) {}

OverlappedExecutor::~OverlappedExecutor() {
  {
    const std::lock_guard lock(mu_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

// One thread calls the other executor, from the beginning.
absl::StatusOr<StartResult> OverlappedExecutor::Start(const LoadProgress& progress) {
  std::unique_lock lock(mu_);
  start_ = &progress;
  changed_.notify_all();
  changed_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return started_ != nullptr; });
  absl::StatusOr<StartResult> result = std::move(*started_);
  if (result.ok()) result->max_steps_in_flight = 2;
  return result;
}

absl::StatusOr<StepResult> OverlappedExecutor::Execute(const StepPlan& plan) {
  Submit(plan);
  return Collect();
}

void OverlappedExecutor::Submit(const StepPlan& plan) {
  {
    const std::lock_guard lock(mu_);
    submitted_.push_back(&plan);
  }
  changed_.notify_all();
}

absl::StatusOr<StepResult> OverlappedExecutor::Collect() {
  std::unique_lock lock(mu_);
  changed_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !results_.empty(); });
  absl::StatusOr<StepResult> result = std::move(results_.front());
  results_.pop_front();
  return result;
}

void OverlappedExecutor::Run() {
  std::unique_lock lock(mu_);
  while (true) {
    changed_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return stopping_ || start_ != nullptr || !submitted_.empty();
    });
    if (stopping_) return;
    if (const LoadProgress* progress = std::exchange(start_, nullptr); progress != nullptr) {
      lock.unlock();
      auto started = std::make_unique<absl::StatusOr<StartResult>>(inner_->Start(*progress));
      lock.lock();
      started_ = std::move(started);
    } else {
      const StepPlan& plan = *submitted_.front();
      submitted_.pop_front();
      lock.unlock();
      absl::StatusOr<StepResult> result = inner_->Execute(plan);
      lock.lock();
      results_.push_back(std::move(result));
    }
    changed_.notify_all();
  }
}

}  // namespace optserve
