#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace optserve {

// How fast a queue empties, measured over its last departures while it was not empty: what a Retry-After can honestly
// promise. No clock: times are the caller's, in nanoseconds. Not thread-safe.
class DrainRate {
 public:
  // `total_departed` counts all that have ever left the queue, and `length` those that wait now. To be called whenever
  // either may have changed.
  void Update(int64_t now_ns, uint64_t total_departed, int64_t length);

  // Seconds until `length` have left at the measured rate, 1 .. 3600.
  int SecondsToDrain(int64_t now_ns, int64_t length) const;

 private:
  struct Mark {
    int64_t time_ns = 0;
    uint64_t total_departed = 0;
  };

  // Marks of this busy period, the last few: [next_ - size_, next_) modulo the array.
  std::array<Mark, 32> marks_;
  size_t next_ = 0;
  size_t size_ = 0;
};

}  // namespace optserve
