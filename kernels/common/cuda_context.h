#pragma once

#include <cstddef>

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

}  // namespace optserve
