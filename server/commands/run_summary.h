#pragma once

#include <chrono>

#include "engine/engine_client.h"
#include "engine/util/log.h"

namespace optserve {

// One line of the log, every ten seconds in which an engine had work: what it did meanwhile and what it has left to do.
// One thread.
class RunSummary {
 public:
  using Clock = std::chrono::steady_clock;

  static constexpr std::chrono::seconds kPeriod{10};

  RunSummary(const Log& log, Clock::time_point now) : log_(log), next_(now + kPeriod), last_(now) {}

  // Writes the line if it is time for it.
  void Update(const EngineStats& stats, Clock::time_point now);

  Clock::time_point next() const { return next_; }

 private:
  const Log& log_;
  Clock::time_point next_;
  Clock::time_point last_;
  EngineStats last_stats_;
};

}  // namespace optserve
