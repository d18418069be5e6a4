#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/context.h"
#include "kernels/common/cuda_device.h"

namespace optserve {

// What every cuda:: op gets. Its memory is taken at start and serves one op after the other: they run in order.
struct CudaContext {
  CudaDevice* device = nullptr;
  DeviceInfo info;
  void* stream = nullptr;
  std::byte* workspace = nullptr;  // aligned to 256 bytes
  size_t workspace_bytes = 0;
  uint32_t* counters = nullptr;  // zeros, and left so by every op
  int64_t num_counters = 0;
};

// Work left after ceil(n / per).
constexpr int64_t CeilDiv(int64_t n, int64_t per) { return (n + per - 1) / per; }

// Whether every row of halves begins at a multiple of 16 bytes, so that eight of them are one load.
inline bool RowsAreAligned(const void* halves, int64_t row_stride) {
  return reinterpret_cast<uintptr_t>(halves) % 16 == 0 && row_stride % 8 == 0;
}

}  // namespace optserve
