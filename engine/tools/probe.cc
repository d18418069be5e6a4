#include "engine/tools/probe.h"

#include <chrono>
#include <vector>

#include "engine/tools/probe_simd.h"
#include "kernels/common/parallel_for.h"

namespace optserve {
namespace {

constexpr int64_t kFloats = (int64_t{1} << 30) / static_cast<int64_t>(sizeof(float));
constexpr int64_t kSampleFloats = kFloats / 8;
constexpr int64_t kFmaSteps = 20'000;  // about 60 us on a core that does two 512-bit FMAs per cycle
constexpr int kFmaUnits = 64;

}  // namespace

MachineProbe::MachineProbe(const CpuContext& ctx) : ctx_(ctx), buffer_(kFloats) {
  ParallelFor(ctx_, kFloats, 1 << 20, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) buffer_.data()[i] = 1.0f;  // untouched pages would all be one page of zeros
  });
}

MachineProbe::Sample MachineProbe::Take() { return {ReadBytesPerSecond(), FlopsPerSecond()}; }

MachineProbe::Sample MachineProbe::Best() {
  Sample best;
  for (int i = 0; i < 9; ++i) best = Faster(best, Take());
  return best;
}

double MachineProbe::ReadBytesPerSecond() {
  std::vector<float> sums(ctx_.pool.num_threads());
  const double start = Now();
  ParallelFor(ctx_, kSampleFloats, 4096, [&](int64_t begin, int64_t end, int thread) {
    sums[thread] += OPTSERVE_SIMD_CALL(ctx_.info.isa, StreamingSum)(buffer_.data() + next_ + begin, end - begin);
  });
  const double seconds = Now() - start;
  for (float sum : sums) sink_ += sum;
  next_ = (next_ + kSampleFloats) % kFloats;
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
