#include "kernels/common/parallel_for.h"

#include <gtest/gtest.h>

#include <mutex>
#include <set>
#include <tuple>
#include <vector>

namespace optserve {
namespace {

using Range = std::tuple<int64_t, int64_t, int>;  // begin, end, thread

std::set<Range> Ranges(const CpuContext& ctx, int64_t n, int64_t grain) {
  std::mutex mu;
  std::set<Range> ranges;
  ParallelFor(ctx, n, grain, [&](int64_t begin, int64_t end, int thread) {
    const std::scoped_lock lock(mu);
    ranges.insert({begin, end, thread});
  });
  return ranges;
}

TEST(ParallelForTest, CoversEveryIndexOnceInWholeGrains) {
  for (int threads : {1, 2, 3, 5}) {
    const CpuContext ctx(DetectCpu(threads));
    for (int64_t grain : {1, 4, 16}) {
      for (int64_t n : {0, 1, 3, 15, 16, 17, 64, 100}) {
        int64_t next = 0;
        for (const auto& [begin, end, thread] : Ranges(ctx, n, grain)) {
          EXPECT_EQ(begin, next);
          EXPECT_LT(begin, end);
          EXPECT_EQ(begin % grain, 0);
          EXPECT_TRUE(end == n || end % grain == 0);
          EXPECT_LT(thread, threads);
          next = end;
        }
        EXPECT_EQ(next, n) << threads << " threads, grain " << grain;
      }
    }
  }
}

TEST(ParallelForTest, CutsAreTheSameEveryTimeAndEven) {
  const CpuContext ctx(DetectCpu(3));
  const std::set<Range> first = Ranges(ctx, 30, 2);
  EXPECT_EQ(first, (std::set<Range>{{0, 10, 0}, {10, 20, 1}, {20, 30, 2}}));
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Ranges(ctx, 30, 2), first);
}

TEST(ParallelForTest, OneGrainStaysOnTheCaller) {
  const CpuContext ctx(DetectCpu(4));
  EXPECT_EQ(Ranges(ctx, 16, 16), (std::set<Range>{{0, 16, 0}}));
}

}  // namespace
}  // namespace optserve
