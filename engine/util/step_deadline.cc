#include "engine/util/step_deadline.h"

#include <algorithm>

namespace optserve {
namespace {

constexpr double kTimesP99 = 20;

}  // namespace

void StepDeadline::Observe(double step_seconds) { last_[num_observed_++ % last_.size()] = step_seconds; }

double StepDeadline::seconds() const {
  const size_t size = std::min(num_observed_, last_.size());
  if (size == 0) return floor_seconds_;
  std::array<double, 512> sorted = last_;
  const auto p99 = sorted.begin() + static_cast<std::ptrdiff_t>((size - 1) * 99 / 100);
  std::nth_element(sorted.begin(), p99, sorted.begin() + static_cast<std::ptrdiff_t>(size));
  return std::max(floor_seconds_, kTimesP99 * *p99);
}

}  // namespace optserve
