#include "kernels/attention/paged_attention.cuh"
#include "kernels/common/check.h"
#include "kernels/common/cuda_context.h"
#include "kernels/common/gpu.h"

// Tries                                                                          time             on
// from sm_75: 64 queries a block, 32 or 64 keys a tile, m16n8k16, ldmatrix,      not yet measured
//   tiles by cp.async two deep (sm_75: an ordinary copy, and two m16n8k8)
// sm_70: 64 queries, 32 keys, m8n8k4, one tile; the weights P change from sums   not yet measured
//   to factors through shared memory (by shuffles: not tried)
//
// Source  FlashAttention-2, Dao 2023; online softmax, Milakov & Gimelshein 2018; fragments: PTX manual, mma.m8n8k4 and
//         mma.m16n8k16.

namespace optserve::cuda {
namespace {

constexpr int kQueries = 64;  // of a block: 16 a warp
constexpr int kThreads = 128;
constexpr float kLog2e = 1.4426950408889634f;

struct PrefillJob : PagedJob {
  const int32_t* query_starts = nullptr;
  int sequences = 0;
  float scale_log2 = 0.0f;  // softmax in powers of two
};

// The queries of one block.
struct QueryTile {
  int sequence = -1;       // none: the block has nothing to do
  int first = 0, end = 0;  // rows of q
  int first_position = 0;  // of query `first` in its sequence
  int num_keys = 0;        // that the last query attends
};

// Which tile block number `number` has: sequences in order, their tiles in order.
GPU_DEVICE QueryTile FindTile(const PrefillJob& job, int number) {
  QueryTile tile;
  for (int i = 0; i < job.sequences; ++i) {
    const int begin = job.query_starts[i], end = job.query_starts[i + 1];
    const int tiles = (end - begin + kQueries - 1) / kQueries;
    if (number < tiles) {
      tile.sequence = i;
      tile.first = begin + number * kQueries;
      tile.end = min(end, tile.first + kQueries);
      tile.first_position = job.context_lens[i] - (end - tile.first);
      tile.num_keys = tile.first_position + (tile.end - tile.first);
      return tile;
    }
    number -= tiles;
  }
  return tile;
}

// kRows rows of a cache from token `first` on into shared memory; those at or past `end` become zeros.
template <int kHeadSize, int kRows, int kStride>
GPU_DEVICE void LoadCacheTile(const PrefillJob& job, const int32_t* table, int head, const F16* cache, int first,
                              int end, F16* to) {
  constexpr int kVectors = kHeadSize / 8;
  for (int i = threadIdx.x; i < kRows * kVectors; i += kThreads) {
    const int row = i / kVectors, column = i % kVectors * 8, token = first + row;
    const bool valid = token < end;
    const F16* from = valid ? cache + CacheRow<kHeadSize>(job, table, head, token) + column : cache;
    gpu::CopyAsync16(to + row * kStride + column, from, valid);
  }
}

template <int kHeadSize, int kStride>
GPU_DEVICE void LoadQueries(const PrefillJob& job, const QueryTile& tile, int head, F16* to) {
  constexpr int kVectors = kHeadSize / 8;
  for (int i = threadIdx.x; i < kQueries * kVectors; i += kThreads) {
    const int row = i / kVectors, column = i % kVectors * 8;
    const bool valid = tile.first + row < tile.end;
    const F16* from = valid ? job.q + (tile.first + row) * job.q_stride + head * kHeadSize + column : job.q;
    gpu::CopyAsync16(to + row * kStride + column, from, valid);
  }
}

// ---------------------------------------------------------------- m16n8k16

template <int kHeadSize, int kKeys>
struct PrefillShared {
  static constexpr int kStride = kHeadSize + 8;  // halves; rows then start in different banks
  static constexpr size_t kBytes = static_cast<size_t>(kQueries + 4 * kKeys) * kStride * sizeof(F16);
};

template <int kHeadSize, int kKeys>
__global__ void __launch_bounds__(kThreads) PrefillKernel(PrefillJob job) {
  constexpr int kStride = PrefillShared<kHeadSize, kKeys>::kStride;
  constexpr int kKeyTiles = kKeys / 8, kOutTiles = kHeadSize / 8, kSteps = kHeadSize / 16;
  GPU_DYNAMIC_SHARED(F16, shared);  // queries, two tiles of keys, two of values
  const QueryTile tile = FindTile(job, blockIdx.x);
  if (tile.sequence < 0) return;  // the whole block
  F16* queries = shared;
  F16* keys = queries + kQueries * kStride;
  F16* values = keys + 2 * kKeys * kStride;
  const int head = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = lane / 4, in_group = lane % 4;
  const int matrix = lane / 8, matrix_row = lane % 8;  // that this lane addresses in ldmatrix
  const int32_t* table = job.tables + tile.sequence * job.table_stride;
  const int num_tiles = (tile.num_keys + kKeys - 1) / kKeys;
  const auto load = [&](int j) {
    F16* const k = keys + j % 2 * kKeys * kStride;
    F16* const v = values + j % 2 * kKeys * kStride;
    LoadCacheTile<kHeadSize, kKeys, kStride>(job, table, head, job.k_cache, j * kKeys, tile.num_keys, k);
    LoadCacheTile<kHeadSize, kKeys, kStride>(job, table, head, job.v_cache, j * kKeys, tile.num_keys, v);
  };
  LoadQueries<kHeadSize, kStride>(job, tile, head, queries);
  load(0);
  gpu::CopyAsyncCommit();

  uint32_t q[kSteps][4];
  float out[kOutTiles][4] = {};
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
  for (int j = 0; j < num_tiles; ++j) {
    if (j + 1 < num_tiles) load(j + 1);
    gpu::CopyAsyncCommit();
    gpu::CopyAsyncWait<1>();
    __syncthreads();  // tile j is there for all
    const F16* k = keys + j % 2 * kKeys * kStride;
    const F16* v = values + j % 2 * kKeys * kStride;
    if (j == 0) {
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        gpu::LdmatrixX4(q[s], queries + (warp * 16 + matrix_row + matrix % 2 * 8) * kStride + s * 16 + matrix / 2 * 8);
      }
    }
    float p[kKeyTiles][4] = {};
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += 2) {
        uint32_t b[4];
        gpu::LdmatrixX4(b, k + (n * 8 + matrix_row + matrix / 2 * 8) * kStride + s * 16 + matrix % 2 * 8);
        const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
        gpu::MmaM16N8K16(p[n], q[s], low);
        gpu::MmaM16N8K16(p[n + 1], q[s], high);
      }
    }
    float now[2] = {largest[0], largest[1]};
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = j * kKeys + n * 8 + in_group * 2 + (e & 1);
        const int position = tile.first_position + warp * 16 + group + (e >> 1) * 8;
        p[n][e] = key <= position && key < tile.num_keys ? p[n][e] * job.scale_log2 : -INFINITY;
        now[e >> 1] = fmaxf(now[e >> 1], p[n][e]);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      now[i] = fmaxf(now[i], __shfl_xor_sync(gpu::kAllLanes, now[i], 1));
      now[i] = fmaxf(now[i], __shfl_xor_sync(gpu::kAllLanes, now[i], 2));
      const float shrink = exp2f(largest[i] - now[i]);  // key 0 is seen by every query: `now` is finite
      largest[i] = now[i];
      total[i] *= shrink;
#pragma unroll
      for (int n = 0; n < kOutTiles; ++n) {
        out[n][i * 2] *= shrink;
        out[n][i * 2 + 1] *= shrink;
      }
    }
#pragma unroll
    for (int s = 0; s < kKeys / 16; ++s) {
      uint32_t a[4];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float* weights = p[s * 2 + h];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          weights[e] = exp2f(weights[e] - largest[e >> 1]);
          total[e >> 1] += weights[e];
        }
        a[h * 2] = gpu::PackHalves(weights[0], weights[1]);
        a[h * 2 + 1] = gpu::PackHalves(weights[2], weights[3]);
      }
#pragma unroll
      for (int n = 0; n < kOutTiles; n += 2) {
        uint32_t b[4];
        gpu::LdmatrixX4Transposed(b, v + (s * 16 + matrix_row + matrix % 2 * 8) * kStride + n * 8 + matrix / 2 * 8);
        const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
        gpu::MmaM16N8K16(out[n], a, low);
        gpu::MmaM16N8K16(out[n + 1], a, high);
      }
    }
    __syncthreads();  // the next round fills the buffer of this tile
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    total[i] += __shfl_xor_sync(gpu::kAllLanes, total[i], 1);
    total[i] += __shfl_xor_sync(gpu::kAllLanes, total[i], 2);
    const int row = tile.first + warp * 16 + group + i * 8;
    if (row >= tile.end) continue;
#pragma unroll
    for (int n = 0; n < kOutTiles; ++n) {
      F16* to = job.out + row * job.out_stride + head * kHeadSize + n * 8 + in_group * 2;
      *reinterpret_cast<uint32_t*>(to) = gpu::PackHalves(out[n][i * 2] / total[i], out[n][i * 2 + 1] / total[i]);
    }
  }
}

// ---------------------------------------------------------------- m8n8k4

constexpr int kVoltaKeys = 32;
constexpr int kWeightStride = kVoltaKeys + 8;

template <int kHeadSize>
struct VoltaShared {
  static constexpr int kStride = kHeadSize + 8;
  static constexpr size_t kBytes =
      (static_cast<size_t>(kQueries + 2 * kVoltaKeys) * kStride + kQueries * kWeightStride) * sizeof(F16);
};

// Four halves from an address that is a multiple of 8 bytes.
GPU_DEVICE void LoadFragment(uint32_t (&to)[2], const F16* from) {
  const uint2 pair = *reinterpret_cast<const uint2*>(from);
  to[0] = pair.x;
  to[1] = pair.y;
}

// A warp's 16 x 16 product is four of 8 x 8: pair of quads number i has rows i % 2 and columns i / 2 of them.
template <int kHeadSize>
__global__ void __launch_bounds__(kThreads) VoltaPrefillKernel(PrefillJob job) {
  constexpr int kStride = VoltaShared<kHeadSize>::kStride;
  constexpr int kKeyTiles = kVoltaKeys / 16, kOutTiles = kHeadSize / 16;
  GPU_DYNAMIC_SHARED(F16, shared);  // queries, keys, values, each warp's weights
  const QueryTile tile = FindTile(job, blockIdx.x);
  if (tile.sequence < 0) return;  // the whole block
  F16* queries = shared;
  F16* keys = queries + kQueries * kStride;
  F16* values = keys + kVoltaKeys * kStride;
  const int head = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  F16* weights = values + kVoltaKeys * kStride + warp * 16 * kWeightStride;
  const int32_t* table = job.tables + tile.sequence * job.table_stride;
  const int pair = lane / 4 % 4, upper = lane / 16 * 4, in_quad = lane % 4;
  const int a_row = pair % 2 * 8 + upper + in_quad;     // that this lane gives to A
  const int b_column = pair / 2 * 8 + upper + in_quad;  // and to B by columns
  const int sum_row = pair % 2 * 8 + upper + lane % 2;  // + (i & 2): of this lane's sums
  const int sum_column = pair / 2 * 8 + (lane & 2);     // + (i & 4) + (i & 1)
  LoadQueries<kHeadSize, kStride>(job, tile, head, queries);

  float out[kOutTiles][8] = {};
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
  for (int first = 0; first < tile.num_keys; first += kVoltaKeys) {
    LoadCacheTile<kHeadSize, kVoltaKeys, kStride>(job, table, head, job.k_cache, first, tile.num_keys, keys);
    LoadCacheTile<kHeadSize, kVoltaKeys, kStride>(job, table, head, job.v_cache, first, tile.num_keys, values);
    gpu::CopyAsyncCommit();
    gpu::CopyAsyncWait<0>();
    __syncthreads();
    float p[kKeyTiles][8] = {};
    for (int d = 0; d < kHeadSize; d += 4) {
      uint32_t a[2];
      LoadFragment(a, queries + (warp * 16 + a_row) * kStride + d);
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
        uint32_t b[2];
        LoadFragment(b, keys + (n * 16 + b_column) * kStride + d);
        gpu::MmaM8N8K4ColB(p[n], a, b);
      }
    }
    float now[2] = {largest[0], largest[1]};
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int key = first + n * 16 + sum_column + (i & 4) + (i & 1);
        const int position = tile.first_position + warp * 16 + sum_row + (i & 2);
        p[n][i] = key <= position && key < tile.num_keys ? p[n][i] * job.scale_log2 : -INFINITY;
        now[(i & 2) / 2] = fmaxf(now[(i & 2) / 2], p[n][i]);
      }
    }
    // A row's columns are shared by the lanes that differ in bits 1 and 3.
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      now[r] = fmaxf(now[r], __shfl_xor_sync(gpu::kAllLanes, now[r], 2));
      now[r] = fmaxf(now[r], __shfl_xor_sync(gpu::kAllLanes, now[r], 8));
      const float shrink = exp2f(largest[r] - now[r]);
      largest[r] = now[r];
      total[r] *= shrink;
#pragma unroll
      for (int n = 0; n < kOutTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          if ((i & 2) / 2 == r) out[n][i] *= shrink;
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        const float low = exp2f(p[n][i] - largest[(i & 2) / 2]), high = exp2f(p[n][i + 1] - largest[(i & 2) / 2]);
        total[(i & 2) / 2] += low + high;
        F16* to = weights + (sum_row + (i & 2)) * kWeightStride + n * 16 + sum_column + (i & 4);
        *reinterpret_cast<uint32_t*>(to) = gpu::PackHalves(low, high);
      }
    }
    __syncwarp();  // a warp reads only its own weights
#pragma unroll
    for (int t = 0; t < kVoltaKeys; t += 4) {
      uint32_t a[2];
      LoadFragment(a, weights + a_row * kWeightStride + t);
#pragma unroll
      for (int n = 0; n < kOutTiles; ++n) {
        uint32_t b[2];
        LoadFragment(b, values + (t + in_quad) * kStride + n * 16 + pair / 2 * 8 + upper);
        gpu::MmaM8N8K4RowB(out[n], a, b);
      }
    }
    __syncthreads();  // the next round fills keys and values, and this warp its weights
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += __shfl_xor_sync(gpu::kAllLanes, total[r], 2);
    total[r] += __shfl_xor_sync(gpu::kAllLanes, total[r], 8);
    const int row = tile.first + warp * 16 + sum_row + r * 2;
    if (row >= tile.end) continue;
#pragma unroll
    for (int n = 0; n < kOutTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 8; i += 4) {
        F16* to = job.out + row * job.out_stride + head * kHeadSize + n * 16 + sum_column + i;
        *reinterpret_cast<uint32_t*>(to) =
            gpu::PackHalves(out[n][i + r * 2] / total[r], out[n][i + r * 2 + 1] / total[r]);
      }
    }
  }
}

// ---------------------------------------------------------------- launch

template <int kHeadSize>
void LaunchPrefill(const CudaContext& ctx, const PrefillJob& job, dim3 grid) {
  if (ctx.info.sm_version < 75) {
    return gpu::Launch(VoltaPrefillKernel<kHeadSize>, grid, dim3(kThreads), VoltaShared<kHeadSize>::kBytes, ctx.stream,
                       job);
  }
  constexpr int kKeys = kHeadSize == 64 || kHeadSize == 80 ? 64 : 32;  // 16: 64 spills under CUDA 12.4
  gpu::Launch(PrefillKernel<kHeadSize, kKeys>, grid, dim3(kThreads), PrefillShared<kHeadSize, kKeys>::kBytes,
              ctx.stream, job);
}

}  // namespace

void PagedPrefill(const CudaContext& ctx, const PagedAttentionParams& p) {
  const int64_t sequences = p.context_lens.dims[0];
  PrefillJob job{MakePagedJob(p)};
  OPTSERVE_CHECK(p.out.row_stride % 2 == 0 && p.query_starts.dims[0] == sequences + 1);
  if (p.q.dims[0] == 0) return;
  job.query_starts = p.query_starts.as<const int32_t>();
  job.sequences = static_cast<int>(sequences);
  job.scale_log2 = p.scale * kLog2e;
  // The host knows how many queries there are but not how they are shared out: at most one tile more per sequence.
  const dim3 grid(static_cast<unsigned>(CeilDiv(p.q.dims[0], kQueries) + sequences - 1),
                  static_cast<unsigned>(job.heads));
  WithHeadSize(p.q.dims[2], [&](auto size) { LaunchPrefill<decltype(size)::value>(ctx, job, grid); });
}

}  // namespace optserve::cuda
