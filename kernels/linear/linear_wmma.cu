#include <algorithm>

#include "kernels/common/check.h"
#include "kernels/common/cuda_context.h"
#include "kernels/common/gpu.h"
#include "kernels/linear/linear_job.cuh"

// Products of up to 64 rows on tensor cores. They are bound by the reading of weights, as those of a single row are, at
// counts of rows for which the ordinary cores are too slow (on a V100 from about ten).
//
// Tries                                                                      time             on
// a warp per 32 columns and 8 to 64 rows, WMMA 32 x 8 x 16; 16-byte loads    not yet measured
//   of the next 32 of K into registers while those in shared memory are
//   multiplied; warps on their own, K split over warps where columns are few
// the same with fragments straight from global memory                        not yet tried: no zeros past the last row
//
// WMMA, because it is the same source from sm_70 to sm_90. Weights are its a, so that a tile of x is 8 rows, and every
// row is computed by the same instructions whatever their count: its bits are its own.

namespace optserve::cuda {
namespace {

constexpr int kColumns = 32;         // of a warp
constexpr int kTileRows = 8;         // of x
constexpr int kDepth = 32;           // of K in shared memory: two instructions deep
constexpr int kPitch = kDepth + 8;   // between rows there, so that eight pieces one below the other are in all banks
constexpr int kPieces = kDepth / 8;  // of 16 bytes, in a row
constexpr int kRowsAtOnce = 32 / kPieces;  // that the lanes of a warp load at once

// Floats of a warp in shared memory: its tiles, two halves in each, and in their place its sums.
template <int kTiles>
constexpr int WarpFloats() {
  const int tiles = (kColumns + kTiles * kTileRows) * kPitch / 2, sums = kTiles * kTileRows * kColumns;
  return std::max(tiles, sums);
}

// Eight halves of a row of `depth`, zeros from its end on.
template <bool kWide>
GPU_DEVICE uint4 LoadPiece(const F16* row, int k, int depth) {
  if constexpr (kWide) {
    return k < depth ? *reinterpret_cast<const uint4*>(row + k) : make_uint4(0, 0, 0, 0);
  } else {
    uint32_t words[4] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (k + i < depth) words[i / 2] |= static_cast<uint32_t>(row[k + i].bits) << i % 2 * 16;
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// What a warp has of shared memory, and what its lanes load for the next step. Lane l has piece l % 4 of rows l / 4,
// l / 4 + 8, ...
template <int kTiles, bool kWide>
class Tiles {
 public:
  __device__ Tiles(const LinearJob& job, const WarpPlace& place, F16* memory)
      : depth_(static_cast<int>(job.depth)), tile_(memory), x_(job.x) {
    const int row = threadIdx.x % 32 / kPieces;
    const LinearJobPart& part = job.parts[place.part];
    // Columns past the last are the last one, which lies before a group that begins past it.
    const int last = static_cast<int>(part.columns - 1 - place.first_column);
    weight_ = part.weight + place.first_column * part.weight_stride;
#pragma unroll
    for (int i = 0; i < kWeightLoads; ++i) {
      weight_rows_[i] = min(row + i * kRowsAtOnce, last) * static_cast<int>(part.weight_stride);
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int x_row = row + t * kTileRows;
      x_rows_[t] = x_row < job.rows ? x_row * static_cast<int>(job.x_stride) : kNoRow;
    }
  }

  __device__ void Load(int k) {
    const int at = k + Piece();
#pragma unroll
    for (int i = 0; i < kWeightLoads; ++i) next_weights_[i] = LoadPiece<kWide>(weight_ + weight_rows_[i], at, depth_);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      next_x_[t] = x_rows_[t] != kNoRow ? LoadPiece<kWide>(x_ + x_rows_[t], at, depth_) : make_uint4(0, 0, 0, 0);
    }
  }

  // Between two barriers of the warp.
  __device__ void Put() const {
    const int at = static_cast<int>(threadIdx.x % 32 / kPieces) * kPitch + Piece();
#pragma unroll
    for (int i = 0; i < kWeightLoads; ++i) {
      *reinterpret_cast<uint4*>(tile_ + at + i * kRowsAtOnce * kPitch) = next_weights_[i];
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      *reinterpret_cast<uint4*>(tile_ + at + (kColumns + t * kTileRows) * kPitch) = next_x_[t];
    }
  }

  __device__ void Multiply(gpu::MatrixC (&sums)[kTiles]) const {
#pragma unroll
    for (int k = 0; k < kDepth; k += gpu::kMatrixDepth) {
      gpu::MatrixA a;
      gpu::LoadMatrix(a, tile_ + k, kPitch);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        gpu::MatrixB b;
        gpu::LoadMatrix(b, tile_ + (kColumns + t * kTileRows) * kPitch + k, kPitch);
        gpu::MultiplyAdd(sums[t], a, b);
      }
    }
  }

 private:
  static constexpr int kWeightLoads = kColumns / kRowsAtOnce;
  static constexpr int kNoRow = -1;  // past the last: zeros
  static_assert(kRowsAtOnce == kTileRows);

  static __device__ int Piece() { return static_cast<int>(threadIdx.x % kPieces) * 8; }

  int depth_;
  F16* tile_;  // kColumns rows of the weight, then those of x
  const F16 *weight_, *x_;
  int weight_rows_[kWeightLoads], x_rows_[kTiles];  // where this lane's rows begin
  uint4 next_weights_[kWeightLoads], next_x_[kTiles];
};

// Of one multiprocessor: what registers and a V100's shared memory have room for.
template <int kTiles>
constexpr int kBlocks = kTiles == 1   ? 3
                        : kTiles <= 4 ? 2
                                      : 1;

template <int kTiles, bool kWide>
__global__ void __launch_bounds__(kLinearThreads, kWide ? kBlocks<kTiles> : 1) WmmaKernel(LinearJob job) {
  GPU_DYNAMIC_SHARED(float, shared);
  const WarpPlace place = PlaceOfWarp<kColumns>(job);
  float* memory = shared + place.warp * WarpFloats<kTiles>();
  Tiles<kTiles, kWide> tiles(job, place, reinterpret_cast<F16*>(memory));
  gpu::MatrixC sums[kTiles];
#pragma unroll
  for (int t = 0; t < kTiles; ++t) gpu::ClearMatrix(sums[t]);

  const int depth = static_cast<int>(job.depth), step = job.splits * kDepth;
  int k = place.turn * kDepth;
  tiles.Load(k);
  for (; k < depth; k += step) {
    __syncwarp();  // all lanes are done with what was there
    tiles.Put();
    __syncwarp();
    tiles.Load(k + step);
    tiles.Multiply(sums);
  }
  __syncwarp();
#pragma unroll
  for (int t = 0; t < kTiles; ++t) gpu::StoreMatrix(memory + t * kTileRows * kColumns, sums[t], kColumns);
  __syncthreads();
  FinishBlock<kTiles * kTileRows, kColumns>(job, place, shared, WarpFloats<kTiles>());
}

template <int kTiles>
void LaunchTiles(const CudaContext& ctx, const LinearJob& job, unsigned blocks) {
  gpu::Launch(LoadsAreWide(job) ? WmmaKernel<kTiles, true> : WmmaKernel<kTiles, false>, dim3(blocks),
              dim3(kLinearThreads), kLinearWarps * WarpFloats<kTiles>() * sizeof(float), ctx.stream, job);
}

}  // namespace

void LaunchWmma(const CudaContext& ctx, LinearJob job, int tile_rows) {
  OPTSERVE_CHECK(job.rows <= tile_rows) << job.rows << " rows in a tile of " << tile_rows;
  constexpr int64_t kMostElements = int64_t{1} << 31;  // between the first row of a block and its last
  OPTSERVE_CHECK(job.x_stride * tile_rows <= kMostElements) << "rows of x are " << job.x_stride << " apart";
  for (int i = 0; i < job.num_parts; ++i) {
    OPTSERVE_CHECK(job.parts[i].weight_stride * kColumns * kLinearWarps <= kMostElements)
        << "rows of the weight are " << job.parts[i].weight_stride << " apart";
  }
  const unsigned blocks = ShareOutBlocks(job, kColumns);
  switch (tile_rows) {
    case 8:
      return LaunchTiles<1>(ctx, job, blocks);
    case 16:
      return LaunchTiles<2>(ctx, job, blocks);
    case 32:
      return LaunchTiles<4>(ctx, job, blocks);
    default:
      return LaunchTiles<8>(ctx, job, blocks);
  }
}

}  // namespace optserve::cuda
