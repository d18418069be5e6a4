#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/common/gpu.h"

// The emulator finds what it says it finds, and the same done right passes. What only a check build sees is tried
// there.

namespace optserve {
namespace {

using emulator::IsCheckBuild;

template <typename... Params, typename... Args>
std::string ErrorOf(void (*kernel)(Params...), int blocks, int threads, size_t shared, Args... args) {
  try {
    gpu::Launch(kernel, dim3(blocks), dim3(threads), shared, nullptr, args...);
  } catch (const emulator::Error& error) {
    return error.what();
  }
  return "";
}

class EmulatorTest : public testing::TestWithParam<uint64_t> {
 protected:
  void SetUp() override { emulator::config().seed = GetParam(); }
  ~EmulatorTest() override { emulator::Free(memory_); }
  int* memory_ = static_cast<int*>(emulator::Allocate(256 * sizeof(int), "memory"));
};
INSTANTIATE_TEST_SUITE_P(Seeds, EmulatorTest, testing::Values(0, 1, 2, 3));

void BarrierThatSomeSkip(int) {
  if (threadIdx.x < 32) __syncthreads();
}
void DivergentBarrier(int) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
TEST_P(EmulatorTest, BarriersThatNotAllReach) {
  EXPECT_THAT(ErrorOf(DivergentBarrier, 1, 64, 0, 0), testing::HasSubstr("divergent barrier"));
  // A warp that has left counts as arrived, as on a GPU.
  EXPECT_EQ(ErrorOf(BarrierThatSomeSkip, 1, 64, 0, 0), "");
}

void LaneLeavesEarly(int) {
  if (threadIdx.x == 5) return;
  __syncthreads();
}
void PartialShuffle(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(gpu::kAllLanes, 1, 1);
}
void ShuffleFromTwoPlaces(int* out) {
  if (threadIdx.x < 16) {
    out[threadIdx.x] = __shfl_xor_sync(gpu::kAllLanes, 1, 1);
  } else {
    out[threadIdx.x] = __shfl_xor_sync(gpu::kAllLanes, 1, 1);
  }
}
TEST_P(EmulatorTest, WarpOperationsThatNotAllLanesReach) {
  EXPECT_THAT(ErrorOf(LaneLeavesEarly, 1, 32, 0, 0),
              testing::AnyOf(testing::HasSubstr("have exited"), testing::HasSubstr("lane exits")));
  EXPECT_THAT(ErrorOf(PartialShuffle, 1, 32, 0, memory_),
              testing::AnyOf(testing::HasSubstr("exited"), testing::HasSubstr("lane exits")));
  EXPECT_THAT(ErrorOf(ShuffleFromTwoPlaces, 1, 32, 0, memory_), testing::HasSubstr("divergent warp"));
}

void LoadTwoMatrices(const F16* from, int apart, int stride) {
  gpu::MatrixA a;
  gpu::LoadMatrix(a, from + (threadIdx.x == 7 ? apart : 0), stride);
}
TEST_P(EmulatorTest, MatricesThatLanesNameDifferentlyOrThatAreMisaligned) {
  auto* matrix = static_cast<F16*>(emulator::Allocate(33 * 32 * sizeof(F16), "matrix"));
  EXPECT_EQ(ErrorOf(LoadTwoMatrices, 1, 32, 0, matrix, 0, 24), "");
  EXPECT_THAT(ErrorOf(LoadTwoMatrices, 1, 32, 0, matrix, 16, 24), testing::HasSubstr("different matrices"));
  EXPECT_THAT(ErrorOf(LoadTwoMatrices, 1, 32, 0, matrix, 0, 20), testing::HasSubstr("misaligned"));
  EXPECT_THAT(ErrorOf(LoadTwoMatrices, 1, 32, 0, matrix + 8, 0, 24), testing::HasSubstr("misaligned"));
  emulator::Free(matrix);
}

void SharedMemory(int) {
  GPU_DYNAMIC_SHARED(int, shared);
  shared[threadIdx.x] = 0;
}
TEST_P(EmulatorTest, LimitsOfALaunch) {
  EXPECT_THAT(ErrorOf(SharedMemory, 1, 32, 97 * 1024, 0), testing::HasSubstr("shared memory"));
  EXPECT_EQ(ErrorOf(SharedMemory, 1, 32, 96 * 1024, 0), "");
  EXPECT_THAT(ErrorOf(SharedMemory, 1, 1025, 128, 0), testing::HasSubstr("1025 threads"));
}

void SumNeighbours(int* out, bool with_barrier) {
  GPU_SHARED(int, shared, [64]);
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (with_barrier) __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = shared[63 - threadIdx.x];
}
TEST_P(EmulatorTest, ABarrierMakesWritesSeen) {
  EXPECT_EQ(ErrorOf(SumNeighbours, 2, 64, 0, memory_, true), "");
  for (int i = 0; i < 128; ++i) EXPECT_EQ(memory_[i], 63 - i % 64);
  if (!IsCheckBuild()) return;
  EXPECT_NE(ErrorOf(SumNeighbours, 2, 64, 0, memory_, false), "");
}

void Exchange(int* out, bool with_sync) {
  GPU_SHARED(int, shared, [32]);
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (with_sync) __syncwarp();
  out[threadIdx.x] = shared[31 - threadIdx.x];
}
TEST_P(EmulatorTest, SyncwarpOrdersAWarp) {
  EXPECT_EQ(ErrorOf(Exchange, 1, 32, 0, memory_, true), "");
  for (int i = 0; i < 32; ++i) EXPECT_EQ(memory_[i], 31 - i);
  if (!IsCheckBuild()) return;
  EXPECT_NE(ErrorOf(Exchange, 1, 32, 0, memory_, false), "");
}

// The last block to come adds up what the threads of all left.
struct Order {
  bool fence_before = true, barrier = true, fence_after = true;
};
void LastBlock(int* parts, unsigned* counter, int* sum, Order order) {
  parts[blockIdx.x * 2 + threadIdx.x] = static_cast<int>(blockIdx.x);
  if (order.fence_before) __threadfence();
  if (order.barrier) __syncthreads();
  if (threadIdx.x != 0 || atomicInc(counter, gridDim.x - 1) != gridDim.x - 1) return;
  if (order.fence_after) __threadfence();
  int total = 0;
  for (unsigned i = 0; i < 2 * gridDim.x; ++i) total += parts[i];
  *sum = total;
}
TEST_P(EmulatorTest, FencesABarrierAndAnAtomicOrderBlocks) {
  auto* counter = static_cast<unsigned*>(emulator::Allocate(4, "counter"));
  *counter = 0;
  const auto error = [&](Order order) { return ErrorOf(LastBlock, 5, 2, 0, memory_, counter, memory_ + 100, order); };
  EXPECT_EQ(error({}), "");
  EXPECT_EQ(memory_[100], 20);
  EXPECT_EQ(*counter, 0u);
  if (IsCheckBuild()) {
    for (const Order& order : {Order{.fence_before = false}, Order{.barrier = false}, Order{.fence_after = false}}) {
      *counter = 0;
      EXPECT_THAT(error(order), testing::HasSubstr("race: read after write"));
    }
  }
  emulator::Free(counter);
}

void WriteAt(int* out, int i) { out[i] = 1; }
void ReadWide(const char* from, int* out) { out[0] = static_cast<int>(reinterpret_cast<const uint4*>(from)->w); }
void ReadShared(int* out) {
  GPU_SHARED(int, shared, [4]);
  out[0] = shared[2];
}
TEST_P(EmulatorTest, AccessesThatMayNotBe) {
  if (!IsCheckBuild()) return;  // AddressSanitizer sees some of them, and ends the process
  EXPECT_THAT(ErrorOf(WriteAt, 1, 1, 0, memory_, 256), testing::HasSubstr("memory"));
  int* heap = new int(0);
  EXPECT_THAT(ErrorOf(WriteAt, 1, 1, 0, heap, 0), testing::HasSubstr("illegal write"));
  delete heap;
  EXPECT_THAT(ErrorOf(ReadWide, 1, 1, 0, reinterpret_cast<const char*>(memory_) + 4, memory_ + 64),
              testing::HasSubstr("misaligned"));
  EXPECT_THAT(ErrorOf(ReadShared, 1, 1, 0, memory_), testing::HasSubstr("uninitialised"));
  emulator::Forbid(memory_ + 8, 4, true);
  EXPECT_THAT(ErrorOf(WriteAt, 1, 1, 0, memory_, 8), testing::HasSubstr("forbidden"));
  emulator::Forbid(memory_ + 8, 4, false);
  EXPECT_EQ(ErrorOf(WriteAt, 1, 1, 0, memory_, 8), "");
}

void AllWriteOne(int* out) { *out = 1; }
TEST_P(EmulatorTest, TwoThreadsThatWriteOnePlace) {
  if (!IsCheckBuild()) return;
  EXPECT_THAT(ErrorOf(AllWriteOne, 1, 2, 0, memory_), testing::HasSubstr("race"));
  EXPECT_THAT(ErrorOf(AllWriteOne, 2, 1, 0, memory_), testing::HasSubstr("race"));
}

void CopyAsync(const F16* from, F16* to, bool wait) {
  GPU_DYNAMIC_SHARED(F16, shared);
  gpu::CopyAsync16(shared + threadIdx.x * 8, from + threadIdx.x * 8, true);
  gpu::CopyAsyncCommit();
  if (wait) gpu::CopyAsyncWait<0>();
  for (int i = 0; i < 8; ++i) to[threadIdx.x * 8 + i] = shared[threadIdx.x * 8 + i];
}
TEST_P(EmulatorTest, AnAsynchronousCopyIsThereAfterTheWait) {
  auto* halves = reinterpret_cast<F16*>(memory_);
  for (int i = 0; i < 16; ++i) halves[i].bits = static_cast<uint16_t>(i);
  EXPECT_EQ(ErrorOf(CopyAsync, 1, 2, 64, static_cast<const F16*>(halves), halves + 16, true), "");
  for (int i = 0; i < 16; ++i) EXPECT_EQ(halves[16 + i].bits, i);
  const std::string error = ErrorOf(CopyAsync, 1, 2, 64, static_cast<const F16*>(halves), halves + 16, false);
  if (IsCheckBuild()) {
    EXPECT_THAT(error, testing::HasSubstr("under way"));
  } else {
    EXPECT_EQ(halves[16].bits, 0xffff);
  }
}

// m16n8k16 and m8n8k4 by the PTX manual's formulas, written once more.
void MmaLarge(const float* a, const float* b, float* d) {
  const int lane = static_cast<int>(threadIdx.x), group = lane >> 2, in_group = lane % 4;
  uint32_t fa[4], fb[2];
  float fd[4] = {};
  for (int i = 0; i < 4; ++i) {
    const int row = i == 0 || i == 2 ? group : group + 8, column = in_group * 2 + (i >= 2 ? 8 : 0);
    fa[i] = gpu::PackHalves(a[row * 16 + column], a[row * 16 + column + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    const int row = in_group * 2 + (i == 1 ? 8 : 0);
    fb[i] = gpu::PackHalves(b[row * 8 + group], b[(row + 1) * 8 + group]);
  }
  gpu::MmaM16N8K16(fd, fa, fb);
  for (int i = 0; i < 4; ++i) d[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = fd[i];
}
TEST_P(EmulatorTest, MatrixInstructionsMultiply) {
  auto* a = static_cast<float*>(emulator::Allocate(256 * 4, "a"));
  auto* b = static_cast<float*>(emulator::Allocate(128 * 4, "b"));
  auto* d = static_cast<float*>(emulator::Allocate(128 * 4, "d"));
  for (int i = 0; i < 256; ++i) a[i] = static_cast<float>(i * 7 % 31) - 15.0f;
  for (int i = 0; i < 128; ++i) b[i] = static_cast<float>(i * 5 % 17) - 8.0f;
  EXPECT_EQ(ErrorOf(MmaLarge, 1, 32, 0, static_cast<const float*>(a), static_cast<const float*>(b), d), "");
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      float sum = 0.0f;
      for (int k = 0; k < 16; ++k) sum += a[i * 16 + k] * b[k * 8 + j];
      EXPECT_EQ(d[i * 8 + j], sum);
    }
  }
  emulator::Free(a);
  emulator::Free(b);
  emulator::Free(d);
}

TEST(EmulatorNumbersTest, HalvesAreRoundedToNearestEven) {
  EXPECT_EQ(gpu::ToHalf(1.0f).bits, 0x3c00);
  EXPECT_EQ(gpu::ToHalf(1.0f + 0x1p-11f).bits, 0x3c00);      // a tie, to even
  EXPECT_EQ(gpu::ToHalf(1.0f + 3 * 0x1p-11f).bits, 0x3c02);  // a tie, to even
  EXPECT_EQ(gpu::ToHalf(1.0f + 0x1p-11f + 0x1p-20f).bits, 0x3c01);
  EXPECT_EQ(gpu::ToHalf(65536.0f).bits, 0x7c00);
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    EXPECT_EQ(gpu::ToHalf(gpu::ToFloat(F16{static_cast<uint16_t>(bits)})).bits, bits);
  }
}

}  // namespace
}  // namespace optserve
