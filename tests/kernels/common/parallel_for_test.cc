#include "kernels/common/parallel_for.h"

#include <gtest/gtest.h>

#include <mutex>
#include <set>
#include <utility>
#include <vector>

namespace optserve {
namespace {

using Range = std::pair<int64_t, int64_t>;  // begin, end

std::set<Range> Ranges(const CpuContext& ctx, int64_t n, int64_t grain) {
  std::mutex mu;
  std::set<Range> ranges;
  ParallelFor(ctx, n, grain, [&](int64_t begin, int64_t end, int thread) {
    const std::scoped_lock lock(mu);
    EXPECT_LT(thread, ctx.pool.num_threads());
    EXPECT_TRUE(ranges.insert({begin, end}).second);
  });
  return ranges;
}

TEST(ParallelForTest, CoversEveryIndexOnceInWholeGrains) {
  for (int threads : {1, 2, 3, 5}) {
    const CpuContext ctx(DetectCpu(threads));
    for (int64_t grain : {1, 4, 16}) {
      for (int64_t n : {0, 1, 3, 15, 16, 17, 64, 100}) {
        int64_t next = 0;
        for (const auto& [begin, end] : Ranges(ctx, n, grain)) {
          EXPECT_EQ(begin, next);
          EXPECT_LT(begin, end);
          EXPECT_EQ(begin % grain, 0);
          EXPECT_TRUE(end == n || end % grain == 0);
          next = end;
        }
        EXPECT_EQ(next, n) << threads << " threads, grain " << grain;
      }
    }
  }
}

TEST(ParallelForTest, CutsAreTheSameEveryTimeAndEven) {
  const CpuContext ctx(DetectCpu(2));
  const std::set<Range> first = Ranges(ctx, 47, 3);
  EXPECT_EQ(first, (std::set<Range>{{0, 6}, {6, 12}, {12, 18}, {18, 24}, {24, 30}, {30, 36}, {36, 42}, {42, 47}}));
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Ranges(ctx, 47, 3), first);
}

TEST(ParallelForTest, OneGrainStaysOnTheCaller) {
  const CpuContext ctx(DetectCpu(4));
  int calls = 0;
  ParallelFor(ctx, 16, 16, [&](int64_t begin, int64_t end, int thread) {
    ++calls;
    EXPECT_EQ(begin, 0);
    EXPECT_EQ(end, 16);
    EXPECT_EQ(thread, 0);
  });
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace optserve
