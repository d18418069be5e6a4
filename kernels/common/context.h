#pragma once

#include <cstdint>
#include <string>

#include "kernels/common/tensor.h"

// What an op needs to know about where it runs. Safe to include from .cu files.

namespace optserve {

// The instruction set that CPU kernels use, best last.
enum class CpuIsa : uint8_t { kPortable, kAvx2, kAvx512 };

struct DeviceInfo {
  std::string name;     // "AMD EPYC", "Tesla V100-SXM3-32GB"
  int num_threads = 1;  // CPU: threads of this context's pool
  CpuIsa isa = CpuIsa::kPortable;
  int sm_version = 0;        // CUDA: 70 for a V100, or for PTX of sm_70 that runs on a newer GPU; 0 on the CPU
  int sm_count = 0;          // CUDA: streaming multiprocessors
  int64_t memory_bytes = 0;  // total memory of the device
  // What the backend's ops take and give for q, k, v, attention's and the feed-forward network's inner activations, and
  // keep keys and values in. The residual stream and logits are f32 everywhere.
  DType activation_dtype = DType::kF32;
  bool host_memory = true;  // the host's threads can read and write the backend's memory
};

struct CpuContext;   // kernels/common/cpu_context.h: DeviceInfo and the thread pool
struct CudaContext;  // kernels/common/cuda_context.h: device, stream, workspace

}  // namespace optserve
