#pragma once

#include <chrono>
#include <cstddef>

namespace optserve {

// Gives the system back what this process has freed and malloc has kept. One thread.
//
// A flood at the gRPC port makes and frees hundreds of MiB in small pieces, on all of gRPC's threads. malloc gives back
// what is free at the end of a heap only; a piece that lives there keeps all below it, in each of its heaps (eight for
// a processor). The table is in freed_memory.cc.
class FreedMemory {
 public:
  using Clock = std::chrono::steady_clock;

  static constexpr std::chrono::seconds kPeriod{2};

  explicit FreedMemory(Clock::time_point now) : next_(now + kPeriod) {}

  // If it is time, and there may be something to give.
  void GiveBack(Clock::time_point now);

  Clock::time_point next() const { return next_; }

 private:
  Clock::time_point next_;
  Clock::time_point last_;     // that it gave
  size_t resident_bytes_ = 0;  // after it
};

}  // namespace optserve
