#pragma once

#include <array>
#include <cstddef>

namespace optserve {

// How long a step may take before whoever computes it is taken for hung: 20 times the p99 of the last steps, and never
// less than a floor that covers what steps do not show (a cold page cache, a machine that is busy with other things).
// Both ends of the process border judge by it. No clock. Not thread-safe.
class StepDeadline {
 public:
  explicit StepDeadline(double floor_seconds) : floor_seconds_(floor_seconds) {}

  void Observe(double step_seconds);
  double seconds() const;

 private:
  const double floor_seconds_;
  std::array<double, 512> last_ = {};
  size_t num_observed_ = 0;
};

}  // namespace optserve
