#pragma once

#include "kernels/common/check.h"
#include "kernels/common/cuda_context.h"
#include "kernels/common/gpu.h"
#include "kernels/linear/linear.h"

// What the kernels of Linear share: the products of one launch, which of them a warp computes, and what becomes of a
// sum.
//
// A block has eight warps in 8 / splits groups. A group owns some columns of all rows; its warps take turns along K,
// and their sums are added in the order of the warps.

namespace optserve::cuda {

constexpr int kLinearThreads = 256;
constexpr int kLinearWarps = kLinearThreads / 32;

struct LinearJobPart {
  const F16* weight;
  int64_t weight_stride;
  const float* bias;  // or null
  void* out;
  int64_t out_stride;
  int64_t columns;
  bool out_is_half;
};

struct LinearJob {
  const F16* x;
  int64_t x_stride;
  int64_t rows, depth;
  LinearJobPart parts[3];
  int num_parts;
  int first_block[3];  // of each part
  int splits;
  Activation activation;
  bool accumulate;
};

// ---------------------------------------------------------------- host

// Gives each part its blocks, of which a group of warps has so many columns; returns how many there are.
inline unsigned ShareOutBlocks(LinearJob& job, int columns_of_group) {
  const int columns_of_block = kLinearWarps / job.splits * columns_of_group;
  int blocks = 0;
  for (int i = 0; i < 3; ++i) {
    job.first_block[i] = i < job.num_parts ? blocks : 0x7fffffff;
    if (i < job.num_parts) blocks += static_cast<int>(CeilDiv(job.parts[i].columns, columns_of_block));
  }
  return static_cast<unsigned>(blocks);
}

// Whether all operands can be loaded eight elements at a time.
inline bool LoadsAreWide(const LinearJob& job) {
  bool wide = job.depth % 8 == 0 && RowsAreAligned(job.x, job.x_stride);
  for (int i = 0; i < job.num_parts; ++i) {
    wide = wide && RowsAreAligned(job.parts[i].weight, job.parts[i].weight_stride);
  }
  return wide;
}

// Of linear_wmma.cu: on tensor cores, up to `tile_rows` rows (8, 16, 32 or 64).
void LaunchWmma(const CudaContext& ctx, LinearJob job, int tile_rows);

// ---------------------------------------------------------------- device

struct WarpPlace {
  int part;
  int warp, group, groups, turn;
  int64_t first_column;  // of the group
};

template <int kColumns>
GPU_DEVICE WarpPlace PlaceOfWarp(const LinearJob& job) {
  const int block = static_cast<int>(blockIdx.x);
  WarpPlace place;
  place.part = block >= job.first_block[2] ? 2 : block >= job.first_block[1] ? 1 : 0;
  place.warp = threadIdx.x / 32;
  place.group = place.warp / job.splits;
  place.turn = place.warp % job.splits;
  place.groups = kLinearWarps / job.splits;
  place.first_column = (int64_t{block - job.first_block[place.part]} * place.groups + place.group) * kColumns;
  return place;
}

GPU_DEVICE float Activate(float x, Activation activation) {
  if (activation == Activation::kRelu) return x < 0.0f ? 0.0f : x;  // NaN stays NaN
  if (activation == Activation::kGelu) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
  return x;
}

GPU_DEVICE void Finish(const LinearJobPart& part, int64_t row, int64_t column, float sum, Activation activation,
                       bool accumulate) {
  if (part.bias != nullptr) sum += part.bias[column];
  sum = Activate(sum, activation);
  const int64_t at = row * part.out_stride + column;
  if (part.out_is_half) {
    F16* out = static_cast<F16*>(part.out) + at;
    gpu::Store(out, accumulate ? sum + gpu::ToFloat(*out) : sum);
  } else {
    float* out = static_cast<float*>(part.out) + at;
    gpu::Store(out, accumulate ? sum + *out : sum);
  }
}

// By the whole block, after a barrier: adds the sums of each group's warps and writes what is within the matrix. Those
// of a warp are [kRows, kColumns], `stride` floats after those of the one before it.
template <int kRows, int kColumns>
GPU_DEVICE void FinishBlock(const LinearJob& job, const WarpPlace& place, const float* sums, int stride) {
  const LinearJobPart& part = job.parts[place.part];
  for (int i = threadIdx.x; i < place.groups * kRows * kColumns; i += kLinearThreads) {
    const int of_group = i / (kRows * kColumns), in_group = i % (kRows * kColumns);
    float sum = 0.0f;
    for (int s = 0; s < job.splits; ++s) sum += sums[(of_group * job.splits + s) * stride + in_group];
    const int64_t row = in_group / kColumns;
    const int64_t column = place.first_column + (of_group - place.group) * kColumns + in_group % kColumns;
    if (row < job.rows && column < part.columns) Finish(part, row, column, sum, job.activation, job.accumulate);
  }
}

}  // namespace optserve::cuda
