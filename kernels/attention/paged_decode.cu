#include <algorithm>

#include "kernels/attention/paged_attention.cuh"
#include "kernels/common/check.h"
#include "kernels/common/cuda_context.h"
#include "kernels/common/gpu.h"

// Tries                                                                       time             on
// 128 threads per (sequence, head, 128 tokens); scores in shared memory;      not yet measured
//   16-byte loads of K and V; the last block of a head to finish combines
// splits as many as fill the device                                           rejected: a sequence's bits would depend
//   on the batch it is in. Pieces of 128 tokens fill a V100 from 6 heads and 2,048 tokens on (96 blocks for 80 SMs).
//
// Source  Flash-Decoding, Dao et al. 2023; the last block done: CUDA's threadFenceReduction sample.

namespace optserve::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kPiece = 128;  // tokens of one block

struct DecodeJob : PagedJob {
  float scale = 0.0f;
  float* partial = nullptr;      // [b, H, pieces, D + 2]: sums, then maximum and total
  uint32_t* finished = nullptr;  // [b, H], zero before and after
  int pieces = 0;                // gridDim.z
};

template <int kHeadSize>
struct DecodeShape {
  static constexpr int kVectors = kHeadSize / 8;  // of 16 bytes
  // Lanes that share a token's score: the largest power of two that divides the vectors.
  static constexpr int kLanes = (kVectors & -kVectors) > 16 ? 16 : (kVectors & -kVectors);
  static constexpr int kTokens = kThreads / kLanes;    // scored at a time
  static constexpr int kGroups = kThreads / kVectors;  // tokens of V weighed at a time
};

template <int kHeadSize>
__global__ void __launch_bounds__(kThreads) DecodeKernel(DecodeJob job) {
  using Shape = DecodeShape<kHeadSize>;
  GPU_SHARED(float, scores, [kPiece]);
  GPU_SHARED(float, reduced, [kWarps]);
  GPU_SHARED(float, sums, [Shape::kGroups][kHeadSize]);
  GPU_SHARED(uint32_t, last, [1]);
  const int head = blockIdx.x, sequence = blockIdx.y, piece = blockIdx.z;
  const int length = job.context_lens[sequence];
  const int begin = piece * kPiece, end = min(length, begin + kPiece);
  const int thread = threadIdx.x;
  if (begin >= length) {  // the whole block
    F16* row = job.out + head * kHeadSize + sequence * job.out_stride;
    for (int d = thread; length == 0 && piece == 0 && d < kHeadSize; d += kThreads) gpu::Store(row + d, 0.0f);
    return;
  }
  const int32_t* table = job.tables + sequence * job.table_stride;
  const auto row_of = [&](int token) { return CacheRow<kHeadSize>(job, table, head, token); };

  // Scores.
  const int sub = thread % Shape::kLanes;
  constexpr int kPerLane = Shape::kVectors / Shape::kLanes;
  float q[kPerLane][8];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    gpu::Load8(job.q + sequence * job.q_stride + head * kHeadSize + (i * Shape::kLanes + sub) * 8, q[i]);
  }
  float largest = -INFINITY;
  for (int first = begin; first < end; first += Shape::kTokens) {
    const int token = first + thread / Shape::kLanes;
    float score = 0.0f;
    if (token < end) {
      const F16* k = job.k_cache + row_of(token);
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        float values[8];
        gpu::Load8(k + (i * Shape::kLanes + sub) * 8, values);
#pragma unroll
        for (int e = 0; e < 8; ++e) score = fmaf(q[i][e], values[e], score);
      }
    }
#pragma unroll
    for (int flip = Shape::kLanes / 2; flip > 0; flip >>= 1) score += __shfl_xor_sync(gpu::kAllLanes, score, flip);
    if (token < end) {
      score *= job.scale;
      largest = fmaxf(largest, score);
      if (sub == 0) scores[token - begin] = score;
    }
  }
  largest = gpu::BlockMax<kWarps>(largest, reduced);

  // Weights.
  float total = 0.0f;
  for (int i = thread; i < end - begin; i += kThreads) {
    const float weight = __expf(scores[i] - largest);
    scores[i] = weight;
    total += weight;
  }
  total = gpu::BlockSum<kWarps>(total, reduced);

  // Values: each group of threads takes every kGroups-th token.
  const int group = thread / Shape::kVectors, vector = thread % Shape::kVectors;
  if (group < Shape::kGroups) {
    float sum[8] = {};
    for (int i = group; i < end - begin; i += Shape::kGroups) {
      float values[8];
      gpu::Load8(job.v_cache + row_of(begin + i) + vector * 8, values);
#pragma unroll
      for (int e = 0; e < 8; ++e) sum[e] = fmaf(scores[i], values[e], sum[e]);
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) sums[group][vector * 8 + e] = sum[e];
  }
  __syncthreads();
  F16* out = job.out + sequence * job.out_stride + head * kHeadSize;
  const int pieces = (length + kPiece - 1) / kPiece;
  const int64_t of_head = int64_t{sequence} * job.heads + head;
  float* partial = job.partial + of_head * job.pieces * (kHeadSize + 2);
  for (int d = thread; d < kHeadSize; d += kThreads) {
    float sum = 0.0f;
#pragma unroll
    for (int g = 0; g < Shape::kGroups; ++g) sum += sums[g][d];
    if (pieces == 1) {
      gpu::Store(out + d, sum / total);
    } else {
      partial[piece * (kHeadSize + 2) + d] = sum;
    }
  }
  if (pieces == 1) return;

  // The last block of this head to come here adds up what all of them left, in their order.
  if (thread == 0) {
    partial[piece * (kHeadSize + 2) + kHeadSize] = largest;
    partial[piece * (kHeadSize + 2) + kHeadSize + 1] = total;
  }
  __threadfence();
  __syncthreads();
  // atomicInc wraps, so that the counter is zero again for the next step.
  if (thread == 0) last[0] = atomicInc(job.finished + of_head, static_cast<unsigned>(pieces - 1)) == pieces - 1u;
  __syncthreads();
  if (last[0] == 0) return;
  __threadfence();
  float all_largest = -INFINITY, all_total = 0.0f;
  for (int i = 0; i < pieces; ++i) all_largest = fmaxf(all_largest, partial[i * (kHeadSize + 2) + kHeadSize]);
  for (int i = 0; i < pieces; ++i) {
    const float* p = partial + i * (kHeadSize + 2);
    all_total += __expf(p[kHeadSize] - all_largest) * p[kHeadSize + 1];
  }
  for (int d = thread; d < kHeadSize; d += kThreads) {
    float sum = 0.0f;
    for (int i = 0; i < pieces; ++i) {
      const float* p = partial + i * (kHeadSize + 2);
      sum += __expf(p[kHeadSize] - all_largest) * p[d];
    }
    gpu::Store(out + d, sum / all_total);
  }
}

template <int kHeadSize>
void LaunchDecode(const CudaContext& ctx, const DecodeJob& job, int sequences) {
  gpu::Launch(
      DecodeKernel<kHeadSize>,
      dim3(static_cast<unsigned>(job.heads), static_cast<unsigned>(sequences), static_cast<unsigned>(job.pieces)),
      dim3(kThreads), 0, ctx.stream, job);
}

}  // namespace

void PagedDecode(const CudaContext& ctx, const PagedAttentionParams& p) {
  const int64_t sequences = p.context_lens.dims[0], heads = p.q.dims[1], head_size = p.q.dims[2];
  DecodeJob job{MakePagedJob(p)};
  OPTSERVE_CHECK(p.q.dims[0] == sequences) << "a decoding sequence has one query";
  if (sequences == 0) return;
  job.scale = p.scale;
  job.partial = reinterpret_cast<float*>(ctx.workspace);
  job.finished = ctx.counters;
  job.pieces = static_cast<int>(CeilDiv(p.max_context_len, kPiece));
  // As many sequences at a time as the workspace has room for.
  const auto bytes_each = static_cast<size_t>(heads * job.pieces * (head_size + 2)) * sizeof(float);
  const int64_t at_once = std::min<int64_t>(
      {static_cast<int64_t>(ctx.workspace_bytes / bytes_each), ctx.num_counters / heads, 65535, sequences});
  OPTSERVE_CHECK(at_once > 0) << "a workspace of " << ctx.workspace_bytes << " bytes for " << bytes_each;
  for (int64_t i = 0; i < sequences; i += at_once) {
    const auto count = static_cast<int>(std::min(at_once, sequences - i));
    WithHeadSize(head_size, [&](auto size) { LaunchDecode<decltype(size)::value>(ctx, job, count); });
    job.out += at_once * job.out_stride;
    job.q += at_once * job.q_stride;
    job.tables += at_once * job.table_stride;
    job.context_lens += at_once;
  }
}

}  // namespace optserve::cuda
