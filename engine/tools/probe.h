#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "engine/tools/large_pages.h"
#include "kernels/common/cpu_context.h"

namespace optserve {

// What this machine can do with all threads of a context, measured now: the roofs that benchmarks are compared with.
//
// Other programs on the machine change both from one moment to the next, so a benchmark takes a sample before and after
// each thing that it measures, compares with the faster of the two, and reports medians of ratios, not a ratio of
// medians.
class MachineProbe {
 public:
  struct Sample {
    double bytes_per_second = 0;  // a sum over an eighth of the buffer, going on where the last sample ended
    double flops = 0;             // per second: f32 multiply-adds in registers, 2 flops each
  };

  // Allocates and touches 1 GiB.
  explicit MachineProbe(const CpuContext& ctx);

  // Some 5 ms.
  Sample Take();
  // The fastest of a few samples.
  Sample Best();

 private:
  double ReadBytesPerSecond();
  double FlopsPerSecond();

  const CpuContext& ctx_;
  LargePages<float> buffer_;
  int64_t next_ = 0;
  float sink_ = 0.0f;
};

inline MachineProbe::Sample Faster(const MachineProbe::Sample& a, const MachineProbe::Sample& b) {
  return {std::max(a.bytes_per_second, b.bytes_per_second), std::max(a.flops, b.flops)};
}

// Seconds on a clock that only goes forward.
double Now();

}  // namespace optserve
