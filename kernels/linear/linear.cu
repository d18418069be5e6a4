#include <algorithm>

#include "kernels/common/check.h"
#include "kernels/common/cuda_context.h"
#include "kernels/common/gpu.h"
#include "kernels/linear/linear.h"
#include "kernels/linear/linear_job.cuh"
#include "kernels/linear/linear_plan.h"

// Tries                                                                      time             on
// skinny: a warp per 2 columns, 16-byte loads, x through L1, K split over    not yet measured
//   warps of a block where columns are few; all row counts the same kernel
// skinny on tensor cores: linear_wmma.cu                                     not yet measured
// cuBLAS, bias and activation in a second kernel                             not yet measured
// Which of them for how many rows, linear_table.inc says by shape and GPU.

namespace optserve::cuda {
namespace {

constexpr int kThreads = kLinearThreads;
constexpr int kColumns = 2;  // of a warp

// Loads kElements of a row of halves: 8 aligned ones, or a single one.
template <int kElements>
GPU_DEVICE void LoadElements(const F16* p, float (&out)[kElements]) {
  if constexpr (kElements == 8) {
    gpu::Load8(p, out);
  } else {
    out[0] = gpu::ToFloat(*p);
  }
}

template <int kRows, int kElements>
__global__ void __launch_bounds__(kThreads, kRows < 16 ? 2 : 1) SkinnyKernel(LinearJob job) {
  GPU_SHARED(float, sums, [kLinearWarps][kRows * kColumns]);
  const WarpPlace place = PlaceOfWarp<kColumns>(job);
  const LinearJobPart& part = job.parts[place.part];
  const int lane = threadIdx.x % 32;

  // Columns beyond the last are the last one.
  const F16* weights[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int64_t column = place.first_column + c < part.columns ? place.first_column + c : part.columns - 1;
    weights[c] = part.weight + column * part.weight_stride;
  }
  // Rows beyond the last are the last one: no lane leaves, and what they give is dropped.
  const int last_row = static_cast<int>(job.rows) - 1;
  float acc[kRows][kColumns] = {};
  const int64_t step = int64_t{job.splits} * 32 * kElements;
#pragma unroll(kRows < 16 ? 2 : 1)
  for (int64_t k = int64_t{place.turn * 32 + lane} * kElements; k < job.depth; k += step) {
    float w[kColumns][kElements];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) LoadElements(weights[c] + k, w[c]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float values[kElements];
      LoadElements(job.x + (r < last_row ? r : last_row) * job.x_stride + k, values);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int e = 0; e < kElements; ++e) acc[r][c] = fmaf(w[c][e], values[e], acc[r][c]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const float sum = gpu::WarpSum(acc[r][c]);
      if (lane == 0) sums[place.warp][r * kColumns + c] = sum;
    }
  }
  __syncthreads();
  FinishBlock<kRows, kColumns>(job, place, sums[0], kRows * kColumns);
}

// Bias and activation after the library's product: out from `sums` [rows, columns], or in place where it is null.
__global__ void __launch_bounds__(kThreads)
    EpilogueKernel(LinearJobPart part, const float* sums, int64_t first_row, Activation activation, bool accumulate) {
  const int64_t row = first_row + blockIdx.x;
  for (int64_t column = blockIdx.y * kThreads + threadIdx.x; column < part.columns;
       column += int64_t{gridDim.y} * kThreads) {
    const int64_t at = row * part.out_stride + column;
    const float sum = sums != nullptr    ? sums[blockIdx.x * part.columns + column]
                      : part.out_is_half ? gpu::ToFloat(static_cast<const F16*>(part.out)[at])
                                         : static_cast<const float*>(part.out)[at];
    Finish(part, row, column, sum, activation, accumulate);
  }
}

__global__ void __launch_bounds__(kThreads)
    ToHalfKernel(F16* out, int64_t out_stride, const float* x, int64_t x_stride, int64_t width) {
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    out[blockIdx.x * out_stride + i] = gpu::ToHalf(x[blockIdx.x * x_stride + i]);
  }
}

template <int kRows>
void LaunchSkinny(const CudaContext& ctx, const LinearJob& job, unsigned blocks) {
  gpu::Launch(LoadsAreWide(job) ? SkinnyKernel<kRows, 8> : SkinnyKernel<kRows, 1>, dim3(blocks), dim3(kThreads), 0,
              ctx.stream, job);
}

void Skinny(const CudaContext& ctx, LinearJob job, int tile_rows) {
  OPTSERVE_CHECK(job.rows <= tile_rows) << job.rows << " rows in a tile of " << tile_rows;
  const unsigned blocks = ShareOutBlocks(job, kColumns);
  switch (tile_rows) {
    case 1:
      return LaunchSkinny<1>(ctx, job, blocks);
    case 2:
      return LaunchSkinny<2>(ctx, job, blocks);
    case 4:
      return LaunchSkinny<4>(ctx, job, blocks);
    case 8:
      return LaunchSkinny<8>(ctx, job, blocks);
    default:
      return LaunchSkinny<16>(ctx, job, blocks);
  }
}

LinearJobPart MakePart(const LinearParams& p, const LinearPart& part) {
  OPTSERVE_CHECK(part.weight.rank == 2 && part.weight.dtype == DType::kF16 && part.weight.dims[1] == p.x.dims[1])
      << "K is " << p.x.dims[1] << " in x, " << part.weight.dims[1] << " in the weight";
  OPTSERVE_CHECK(part.out.rank == 2 && part.out.dims[0] == p.x.dims[0] && part.out.dims[1] == part.weight.dims[0])
      << "out is [" << part.out.dims[0] << ", " << part.out.dims[1] << "] for " << p.x.dims[0] << " rows of x and "
      << part.weight.dims[0] << " of the weight";
  OPTSERVE_CHECK(part.out.dtype == DType::kF32 || part.out.dtype == DType::kF16);
  OPTSERVE_CHECK(part.bias.empty() || (part.bias.dtype == DType::kF32 && part.bias.dims[0] == part.weight.dims[0]));
  return {.weight = part.weight.as<const F16>(),
          .weight_stride = part.weight.row_stride,
          .bias = part.bias.as<const float>(),
          .out = part.out.data,
          .out_stride = part.out.row_stride,
          .columns = part.weight.dims[0],
          .out_is_half = part.out.dtype == DType::kF16};
}

void Epilogue(const CudaContext& ctx, const LinearJobPart& part, const float* sums, int64_t first_row, int64_t rows,
              Activation activation, bool accumulate) {
  const auto columns = static_cast<unsigned>(std::min<int64_t>(CeilDiv(part.columns, kThreads), 64));
  gpu::Launch(EpilogueKernel, dim3(static_cast<unsigned>(rows), columns), dim3(kThreads), 0, ctx.stream, part, sums,
              first_row, activation, accumulate);
}

// The library writes straight to the output, unless what is added to must not go through the activation.
void Gemm(const CudaContext& ctx, const LinearJob& job, const LinearJobPart& part, std::byte* free, size_t free_bytes) {
  GemmCall call{.x = job.x,
                .x_stride = job.x_stride,
                .weight = part.weight,
                .weight_stride = part.weight_stride,
                .out = part.out,
                .out_stride = part.out_stride,
                .out_is_half = part.out_is_half,
                .rows = job.rows,
                .columns = part.columns,
                .depth = job.depth,
                .accumulate = job.accumulate};
  if (!job.accumulate || job.activation == Activation::kNone) {
    ctx.device->Gemm(call);
    if (part.bias != nullptr || job.activation != Activation::kNone) {
      Epilogue(ctx, part, nullptr, 0, job.rows, job.activation, false);
    }
    return;
  }
  const auto chunk = static_cast<int64_t>(free_bytes / (static_cast<size_t>(part.columns) * sizeof(float)));
  OPTSERVE_CHECK(chunk > 0) << "a workspace of " << free_bytes << " bytes for " << part.columns << " columns";
  for (int64_t row = 0; row < job.rows; row += chunk) {
    call.rows = std::min(chunk, job.rows - row);
    call.x = job.x + row * job.x_stride;
    call.out = free;
    call.out_stride = part.columns;
    call.out_is_half = call.accumulate = false;
    ctx.device->Gemm(call);
    Epilogue(ctx, part, reinterpret_cast<const float*>(free), row, call.rows, job.activation, true);
  }
}

void RunRows(const CudaContext& ctx, LinearJob job, std::byte* free, size_t free_bytes, const LinearPlan* forced) {
  int64_t columns = 0;
  for (int i = 0; i < job.num_parts; ++i) columns += job.parts[i].columns;
  const LinearPlan plan = forced != nullptr ? *forced : PlanLinear(job.rows, columns, job.depth, ctx.info);
  job.splits = plan.splits;
  switch (plan.kernel) {
    case LinearKernel::kSkinny:
      return Skinny(ctx, job, plan.tile_rows);
    case LinearKernel::kWmma:
      return LaunchWmma(ctx, job, plan.tile_rows);
    case LinearKernel::kLibrary:
      for (int i = 0; i < job.num_parts; ++i) Gemm(ctx, job, job.parts[i], free, free_bytes);
  }
}

}  // namespace

void Linear(const CudaContext& ctx, const LinearParams& p) { LinearAs(ctx, p, nullptr); }

void LinearAs(const CudaContext& ctx, const LinearParams& p, const LinearPlan* forced) {
  OPTSERVE_CHECK(p.num_parts >= 1 && p.num_parts <= 3) << p.num_parts << " parts";
  OPTSERVE_CHECK(p.x.rank == 2 && p.x.dims[1] > 0 && (p.x.dtype == DType::kF16 || p.x.dtype == DType::kF32));
  LinearJob job{};
  job.rows = p.x.dims[0];
  job.depth = p.x.dims[1];
  job.activation = p.activation;
  job.accumulate = p.accumulate;
  job.num_parts = p.num_parts;
  for (int i = 0; i < p.num_parts; ++i) job.parts[i] = MakePart(p, p.parts[i]);
  if (job.rows == 0) return;
  if (p.x.dtype == DType::kF16) {
    job.x = p.x.as<const F16>();
    job.x_stride = p.x.row_stride;
    return RunRows(ctx, job, ctx.workspace, ctx.workspace_bytes, forced);
  }
  // f32 rows are rounded to halves first, as many at a time as half of the workspace holds.
  const int64_t stride = CeilDiv(job.depth, 8) * 8;
  const size_t half = ctx.workspace_bytes / 2 / 256 * 256;
  const auto chunk = static_cast<int64_t>(half / (static_cast<size_t>(stride) * sizeof(F16)));
  OPTSERVE_CHECK(chunk > 0) << "a workspace of " << ctx.workspace_bytes << " bytes for a depth of " << job.depth;
  LinearJob piece = job;
  for (int64_t row = 0; row < job.rows; row += chunk) {
    piece.rows = std::min(chunk, job.rows - row);
    F16* x = reinterpret_cast<F16*>(ctx.workspace);
    gpu::Launch(ToHalfKernel, dim3(static_cast<unsigned>(piece.rows)), dim3(kThreads), 0, ctx.stream, x, stride,
                p.x.as<const float>() + row * p.x.row_stride, p.x.row_stride, job.depth);
    piece.x = x;
    piece.x_stride = stride;
    for (int i = 0; i < p.num_parts; ++i) {
      const size_t element = job.parts[i].out_is_half ? sizeof(F16) : sizeof(float);
      piece.parts[i].out = static_cast<std::byte*>(job.parts[i].out) + row * job.parts[i].out_stride * element;
    }
    RunRows(ctx, piece, ctx.workspace + half, ctx.workspace_bytes - half, forced);
  }
}

}  // namespace optserve::cuda
