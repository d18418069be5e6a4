// What the machine does with one instruction. Not measured: these kernels are for instructions_test.cc.

#include "tests/kernels/cuda/instruction_kernels.h"

#include "kernels/common/gpu.h"

namespace optserve::instructions {
namespace {

constexpr int kLanes = 32;

template <bool kTransposed>
__global__ void LdmatrixKernel(const uint16_t* rows, const int32_t* order, uint32_t* r) {
  GPU_SHARED(uint4, tile, [kLanes]);
  const int lane = static_cast<int>(threadIdx.x);
  tile[lane] = reinterpret_cast<const uint4*>(rows)[lane];
  __syncthreads();
  uint32_t got[4];
  if constexpr (kTransposed) {
    gpu::LdmatrixX4Transposed(got, &tile[order[lane]]);
  } else {
    gpu::LdmatrixX4(got, &tile[order[lane]]);
  }
  for (int i = 0; i < 4; ++i) r[lane * 4 + i] = got[i];
}

__global__ void MmaLargeKernel(const uint32_t* a, const uint32_t* b, float* d) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t x[4], y[2];
  float sum[4];
  for (int i = 0; i < 4; ++i) x[i] = a[lane * 4 + i], sum[i] = d[lane * 4 + i];
  for (int i = 0; i < 2; ++i) y[i] = b[lane * 2 + i];
  gpu::MmaM16N8K16(sum, x, y);
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = sum[i];
}

template <bool kRowB>
__global__ void MmaSmallKernel(const uint32_t* a, const uint32_t* b, float* d) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t x[2], y[2];
  float sum[8];
  for (int i = 0; i < 2; ++i) x[i] = a[lane * 2 + i], y[i] = b[lane * 2 + i];
  for (int i = 0; i < 8; ++i) sum[i] = d[lane * 8 + i];
  if constexpr (kRowB) {
    gpu::MmaM8N8K4RowB(sum, x, y);
  } else {
    gpu::MmaM8N8K4ColB(sum, x, y);
  }
  for (int i = 0; i < 8; ++i) d[lane * 8 + i] = sum[i];
}

__global__ void WmmaKernel(const F16* a, int a_stride, const F16* b, int b_stride, float* c, int c_stride) {
  constexpr int kMostStride = 48;
  GPU_SHARED(uint4, tiles, [40 * kMostStride / 8]);
  auto* a_tile = reinterpret_cast<F16*>(tiles);
  F16* b_tile = a_tile + 32 * kMostStride;
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 32 * a_stride; i += kLanes) a_tile[i] = a[i];
  for (int i = lane; i < 8 * b_stride; i += kLanes) b_tile[i] = b[i];
  __syncwarp();
  gpu::MatrixC sums;
  gpu::ClearMatrix(sums);
  for (int k = 0; k < kMatrixSteps * gpu::kMatrixDepth; k += gpu::kMatrixDepth) {
    gpu::MatrixA x;
    gpu::MatrixB y;
    gpu::LoadMatrix(x, a_tile + k, a_stride);
    gpu::LoadMatrix(y, b_tile + k, b_stride);
    gpu::MultiplyAdd(sums, x, y);
  }
  gpu::StoreMatrix(c, sums, c_stride);
}

// A thread reads the piece that its neighbour ordered, so that both the wait and the barrier count.
template <int kGroupsLeft>
GPU_DEVICE void PassOn(const uint4* tile, uint4* to) {
  gpu::CopyAsyncWait<kGroupsLeft>();
  __syncthreads();
  constexpr int kGroup = kCopyGroups - 1 - kGroupsLeft;
  const int piece = static_cast<int>(threadIdx.x) ^ 1;
  to[kGroup * kCopyPieces + piece] = tile[kGroup * kCopyPieces + piece];
}
__global__ void CopyAsyncKernel(const F16* from, const int32_t* valid, F16* to) {
  GPU_SHARED(uint4, tile, [kCopyGroups * kCopyPieces]);
  for (int group = 0; group < kCopyGroups; ++group) {
    const int piece = group * kCopyPieces + static_cast<int>(threadIdx.x);
    gpu::CopyAsync16(&tile[piece], from + piece * 8, valid[piece] != 0);
    gpu::CopyAsyncCommit();
  }
  auto* out = reinterpret_cast<uint4*>(to);
  PassOn<2>(tile, out);
  PassOn<1>(tile, out);
  PassOn<0>(tile, out);
}

__global__ void ToFloatsKernel(const F16* in, float* out, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) out[i] = gpu::ToFloat(in[i]);
}
__global__ void ToHalvesKernel(const float* in, F16* out, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) out[i] = gpu::ToHalf(in[i]);
}

__global__ void PingPongKernel(uint32_t* words, int rounds) {
  constexpr int64_t kMostPolls = int64_t{1} << 24;  // over the bus, some ten seconds
  for (uint32_t round = 1; round <= static_cast<uint32_t>(rounds); ++round) {
    for (int64_t poll = 0; gpu::LoadAcquire(words + kRequest) != round; ++poll) {
      if (poll == kMostPolls) return gpu::StoreRelease(words + kReply, ~0u);
      gpu::PollAgain();
    }
    words[kAnswer] = 2 * words[kQuestion];
    gpu::StoreRelease(words + kReply, round);
  }
}

constexpr int kThreads = 256;
dim3 BlocksFor(int64_t count) { return dim3(static_cast<unsigned>(CeilDiv(count, kThreads))); }

}  // namespace

void Ldmatrix(const CudaContext& ctx, bool transposed, const uint16_t* rows, const int32_t* order, uint32_t* r) {
  const auto kernel = transposed ? LdmatrixKernel<true> : LdmatrixKernel<false>;
  gpu::Launch(kernel, dim3(1), dim3(kLanes), 0, ctx.stream, rows, order, r);
}
void MmaM16N8K16(const CudaContext& ctx, const uint32_t* a, const uint32_t* b, float* d) {
  gpu::Launch(MmaLargeKernel, dim3(1), dim3(kLanes), 0, ctx.stream, a, b, d);
}
void MmaM8N8K4(const CudaContext& ctx, bool row_b, const uint32_t* a, const uint32_t* b, float* d) {
  const auto kernel = row_b ? MmaSmallKernel<true> : MmaSmallKernel<false>;
  gpu::Launch(kernel, dim3(1), dim3(kLanes), 0, ctx.stream, a, b, d);
}
void Wmma(const CudaContext& ctx, const F16* a, int a_stride, const F16* b, int b_stride, float* c, int c_stride) {
  gpu::Launch(WmmaKernel, dim3(1), dim3(kLanes), 0, ctx.stream, a, a_stride, b, b_stride, c, c_stride);
}
void CopyAsync(const CudaContext& ctx, const F16* from, const int32_t* valid, F16* to) {
  gpu::Launch(CopyAsyncKernel, dim3(1), dim3(kCopyPieces), 0, ctx.stream, from, valid, to);
}
void ToFloats(const CudaContext& ctx, const F16* in, float* out, int64_t count) {
  gpu::Launch(ToFloatsKernel, BlocksFor(count), dim3(kThreads), 0, ctx.stream, in, out, count);
}
void ToHalves(const CudaContext& ctx, const float* in, F16* out, int64_t count) {
  gpu::Launch(ToHalvesKernel, BlocksFor(count), dim3(kThreads), 0, ctx.stream, in, out, count);
}
void PingPong(const CudaContext& ctx, uint32_t* words, int rounds) {
  gpu::Launch(PingPongKernel, dim3(1), dim3(1), 0, ctx.stream, words, rounds);
}

}  // namespace optserve::instructions
