#include "engine/drain_rate.h"

#include <algorithm>
#include <cmath>

namespace optserve {

void DrainRate::Update(int64_t now_ns, uint64_t total_departed, int64_t length) {
  const bool has_moved = size_ == 0 || marks_[(next_ - 1) % marks_.size()].total_departed != total_departed;
  if (has_moved) {
    marks_[next_++ % marks_.size()] = {.time_ns = now_ns, .total_departed = total_departed};
    size_ = std::min(size_ + 1, marks_.size());
  }
  if (length == 0) size_ = 0;  // idle time must not count as slowness
}

int DrainRate::SecondsToDrain(int64_t now_ns, int64_t length) const {
  if (size_ == 0) return 1;
  const Mark& first = marks_[(next_ - size_) % marks_.size()];
  const Mark& last = marks_[(next_ - 1) % marks_.size()];
  // Nothing has left yet: at best one is about to.
  const auto departed = static_cast<double>(std::max<uint64_t>(last.total_departed - first.total_departed, 1));
  const double seconds = static_cast<double>(now_ns - first.time_ns) / 1e9;
  return static_cast<int>(std::clamp(std::ceil(static_cast<double>(length) * seconds / departed), 1.0, 3600.0));
}

}  // namespace optserve
