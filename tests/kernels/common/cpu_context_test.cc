#include "kernels/common/cpu_context.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>

namespace optserve {
namespace {

TEST(CpuContextTest, DescribesThisMachine) {
  const DeviceInfo info = DetectCpu(0);
  EXPECT_FALSE(info.name.empty());
  EXPECT_GE(info.num_threads, 1);
  EXPECT_LE(info.num_threads, static_cast<int>(std::thread::hardware_concurrency()));
  EXPECT_GT(info.memory_bytes, int64_t{64} << 20);
  EXPECT_EQ(info.isa, DetectCpuIsa());
  EXPECT_EQ(DetectCpu(3).num_threads, 3);
}

TEST(CpuContextTest, ScratchOfThreadsIsAlignedAndApart) {
  const CpuContext ctx(DetectCpu(3));
  for (int t = 0; t < 3; ++t) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(ctx.scratch(t)) % 64, 0u);
    std::memset(ctx.scratch(t), t, CpuContext::kScratchBytes);
  }
  for (int t = 0; t < 3; ++t) {
    EXPECT_EQ(static_cast<int>(ctx.scratch(t)[0]), t);
    EXPECT_EQ(static_cast<int>(ctx.scratch(t)[CpuContext::kScratchBytes - 1]), t);
  }
}

TEST(CpuContextTest, OlderInstructionSetsCanBeAskedFor) {
  for (int isa = 0; isa <= static_cast<int>(DetectCpuIsa()); ++isa) {
    DeviceInfo info = DetectCpu(1);
    info.isa = static_cast<CpuIsa>(isa);
    EXPECT_EQ(CpuContext(info).info.isa, info.isa);
  }
}

}  // namespace
}  // namespace optserve
