#pragma once

#include <cstddef>
#include <memory>

#include "kernels/common/context.h"
#include "kernels/common/thread_pool.h"

namespace optserve {

// The best instruction set of CpuIsa that both the processor and the operating system support. Instruction sets are
// nested, so a machine runs every isa <= DetectCpuIsa().
CpuIsa DetectCpuIsa();

// This machine as a device: name, memory, instruction set, and num_threads, where 0 means every CPU that this process
// may run on.
DeviceInfo DetectCpu(int num_threads);

// What every cpu:: op gets. One thread at a time uses it. Tests set info.isa to try an older instruction set.
struct CpuContext {
  explicit CpuContext(const DeviceInfo& device);

  // Memory for one thread's use within one op, aligned to 64 bytes: taken here so that steps allocate nothing.
  static constexpr size_t kScratchBytes = size_t{1} << 20;
  std::byte* scratch(int thread) const { return scratch_.get() + thread * kScratchBytes; }

  DeviceInfo info;
  mutable ThreadPool pool;  // ops get a const context: they change no setting, but they do use the threads

 private:
  struct FreeAligned {
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, FreeAligned> scratch_;
};

}  // namespace optserve
