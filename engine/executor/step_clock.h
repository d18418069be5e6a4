#pragma once

#include <chrono>
#include <utility>

#include "engine/util/step_account.h"

namespace optserve {

// Divides a rank's step into phases: at any time the step is in one of them, and a change costs two readings of the
// clock. One thread.
class StepClock {
 public:
  void Start(StepPhase phase) {
    times_ = {};
    phase_ = phase;
    since_ = Clock::now();
  }

  // Returns the phase that ends.
  StepPhase Enter(StepPhase phase) {
    const Clock::time_point now = Clock::now();
    times_[phase_] += std::chrono::duration_cast<std::chrono::nanoseconds>(now - since_).count();
    since_ = now;
    return std::exchange(phase_, phase);
  }

  const StepTimes& Stop() {
    Enter(phase_);
    return times_;
  }

  // A phase within another one.
  class Scope {
   public:
    Scope(StepClock& clock, StepPhase phase) : clock_(clock), outer_(clock.Enter(phase)) {}
    ~Scope() { clock_.Enter(outer_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    StepClock& clock_;
    const StepPhase outer_;
  };

 private:
  using Clock = std::chrono::steady_clock;
  StepTimes times_;
  StepPhase phase_ = StepPhase::kHost;
  Clock::time_point since_;
};

}  // namespace optserve
