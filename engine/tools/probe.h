#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/common/cpu_context.h"

namespace optserve {

// What this machine can do with all threads of a context, measured now: the roofs that benchmarks are compared with.
//
// Other programs on the machine change both from one moment to the next, so a benchmark takes a sample before and after
// each thing that it measures, and reports medians of ratios, never a ratio of medians.
class MachineProbe {
 public:
  // Allocates and touches 1 GiB.
  explicit MachineProbe(const CpuContext& ctx);

  double ReadBytesPerSecond();  // a sum over a quarter of the buffer, going on where the last sample ended
  double FlopsPerSecond();      // f32 multiply-adds in registers, 2 flops each

 private:
  struct Unmap {
    void operator()(float* memory) const;
  };
  const CpuContext& ctx_;
  std::unique_ptr<float, Unmap> buffer_;
  int64_t next_ = 0;
  float sink_ = 0.0f;
};

// Seconds on a clock that only goes forward.
double Now();

}  // namespace optserve
