#pragma once

#include <cstdint>

#include "kernels/common/cpu_context.h"

namespace optserve {

// Calls body(begin, end, thread) on ranges that together are [0, n), one per thread, in parallel. The cuts are a
// function of n, the number of threads and `grain` alone; every range but the last starts and ends at a multiple of
// `grain`, so that neighbouring threads write to different cache lines, or tiles stay whole. An n of at most `grain`
// runs on the calling thread without waking anybody.
template <typename Body>
void ParallelFor(const CpuContext& ctx, int64_t n, int64_t grain, const Body& body) {
  if (n <= 0) return;
  const int64_t num_threads = ctx.pool.num_threads();
  if (n <= grain || num_threads == 1) return body(int64_t{0}, n, 0);
  const int64_t num_grains = (n + grain - 1) / grain;
  ctx.pool.Run([&](int thread) {
    const int64_t begin = num_grains * thread / num_threads * grain;
    const int64_t end = num_grains * (thread + 1) / num_threads * grain;
    if (begin < n && begin < end) body(begin, end < n ? end : n, thread);
  });
}

}  // namespace optserve
