#pragma once

#include <cstdint>

#include "kernels/common/cpu_context.h"

namespace optserve {

// Calls body(begin, end, thread) on ranges that together are [0, n), in parallel. The cuts are a function of n, the
// number of threads and `grain` alone; every range but the last starts and ends at a multiple of `grain`, so that
// neighbours write to different cache lines, or tiles stay whole. There are a few ranges per thread, so that one thread
// may do more than another; `thread` only says whose scratch memory to use. An n of at most `grain` runs on the calling
// thread without waking anybody.
template <typename Body>
void ParallelFor(const CpuContext& ctx, int64_t n, int64_t grain, const Body& body) {
  constexpr int64_t kRangesPerThread = 4;
  if (n <= 0) return;
  if (n <= grain || ctx.pool.num_threads() == 1) return body(int64_t{0}, n, 0);
  const int64_t num_grains = (n + grain - 1) / grain;
  const int64_t wanted = kRangesPerThread * ctx.pool.num_threads();
  const int64_t num_ranges = num_grains < wanted ? num_grains : wanted;
  ctx.pool.Run(static_cast<int>(num_ranges), [&](int range, int thread) {
    const int64_t begin = num_grains * range / num_ranges * grain;
    const int64_t end = num_grains * (range + 1) / num_ranges * grain;
    body(begin, end < n ? end : n, thread);
  });
}

}  // namespace optserve
