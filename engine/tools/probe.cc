#include "engine/tools/probe.h"

#include <sys/mman.h>

#include <chrono>
#include <vector>

#include "engine/tools/probe_simd.h"
#include "kernels/common/check.h"
#include "kernels/common/parallel_for.h"

namespace optserve {
namespace {

constexpr int64_t kBytes = int64_t{1} << 30;
constexpr int64_t kSampleFloats = kBytes / 4 / static_cast<int64_t>(sizeof(float));
constexpr int64_t kFmaSteps = 20'000;  // about 60 us on a core that does two 512-bit FMAs per cycle
constexpr int kFmaUnits = 80;

}  // namespace

MachineProbe::MachineProbe(const CpuContext& ctx) : ctx_(ctx) {
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  OPTSERVE_CHECK(memory != MAP_FAILED) << "no memory for the bandwidth probe";
  madvise(memory, kBytes, MADV_HUGEPAGE);
  buffer_.reset(static_cast<float*>(memory));
  ParallelFor(ctx_, kBytes / sizeof(float), 1 << 20, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) buffer_.get()[i] = 1.0f;  // untouched pages would all be one page of zeros
  });
}

void MachineProbe::Unmap::operator()(float* memory) const { munmap(memory, kBytes); }

double MachineProbe::ReadBytesPerSecond() {
  std::vector<float> sums(ctx_.pool.num_threads());
  const double start = Now();
  ParallelFor(ctx_, kSampleFloats, 4096, [&](int64_t begin, int64_t end, int thread) {
    sums[thread] += OPTSERVE_SIMD_CALL(ctx_.info.isa, StreamingSum)(buffer_.get() + next_ + begin, end - begin);
  });
  const double seconds = Now() - start;
  for (float sum : sums) sink_ += sum;
  next_ = (next_ + kSampleFloats) % (kBytes / static_cast<int64_t>(sizeof(float)));
  return kSampleFloats * sizeof(float) / seconds;
}

double MachineProbe::FlopsPerSecond() {
  std::vector<float> sums(ctx_.pool.num_threads());
  const double start = Now();
  ctx_.pool.Run(kFmaUnits,
                [&](int, int thread) { sums[thread] += OPTSERVE_SIMD_CALL(ctx_.info.isa, FmaLoop)(kFmaSteps); });
  const double seconds = Now() - start;
  for (float sum : sums) sink_ += sum;
  return 2.0 * 24 * 16 * kFmaSteps * kFmaUnits / seconds;
}

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace optserve
