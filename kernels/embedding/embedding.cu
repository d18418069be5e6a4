#include "kernels/common/check.h"
#include "kernels/common/cuda_context.h"
#include "kernels/common/gpu.h"
#include "kernels/embedding/embedding.h"

// Tries                                              time             on
// one block a token, a half a thread                 not yet measured
// drawn ids put into their places by a launch of     not taken: one launch more
//   its own before it                                a step
// (rows are a few KiB and tokens few: launch-bound, so no vector loads, which would need aligned rows)

namespace optserve::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    EmbeddingKernel(float* out, int64_t out_stride, const int32_t* ids, const F16* table, int64_t table_stride,
                    int64_t num_rows, int64_t width, int32_t first_id, const int32_t* drawn, int64_t num_drawn) {
  int32_t id = ids[blockIdx.x];
  if (id < 0 && ~id < num_drawn) id = drawn[~id];
  const int64_t row = int64_t{id} - first_id;
  const bool ours = row >= 0 && row < num_rows;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    out[blockIdx.x * out_stride + i] = ours ? gpu::ToFloat(table[row * table_stride + i]) : 0.0f;
  }
}

__global__ void __launch_bounds__(kThreads)
    PositionEmbeddingKernel(float* x, int64_t x_stride, const int32_t* positions, const F16* table,
                            int64_t table_stride, int64_t width, int32_t offset) {
  const int64_t row = int64_t{positions[blockIdx.x]} + offset;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    x[blockIdx.x * x_stride + i] += gpu::ToFloat(table[row * table_stride + i]);
  }
}

dim3 Blocks(const TensorView& rows) { return dim3(static_cast<unsigned>(rows.dims[0])); }

}  // namespace

void Embedding(const CudaContext& ctx, const EmbeddingParams& p) {
  const int64_t width = p.table.dims[1];
  OPTSERVE_CHECK(p.out.rank == 2 && p.out.dtype == DType::kF32 && p.out.dims[1] == width);
  OPTSERVE_CHECK(p.table.dtype == DType::kF16 && p.ids.dtype == DType::kI32 && p.ids.dims[0] == p.out.dims[0]);
  OPTSERVE_CHECK(p.drawn.empty() || p.drawn.dtype == DType::kI32);
  if (p.out.dims[0] == 0) return;
  gpu::Launch(EmbeddingKernel, Blocks(p.out), dim3(kThreads), 0, ctx.stream, p.out.as<float>(), p.out.row_stride,
              p.ids.as<const int32_t>(), p.table.as<const F16>(), p.table.row_stride, p.table.dims[0], width,
              p.first_id, p.drawn.as<const int32_t>(), p.drawn.dims[0]);
}

void PositionEmbedding(const CudaContext& ctx, const PositionEmbeddingParams& p) {
  constexpr int32_t kOffset = 2;  // the checkpoint's two padding rows
  const int64_t width = p.table.dims[1];
  OPTSERVE_CHECK(p.x.rank == 2 && p.x.dtype == DType::kF32 && p.x.dims[1] == width);
  OPTSERVE_CHECK(p.table.dtype == DType::kF16 && p.positions.dims[0] == p.x.dims[0]);
  if (p.x.dims[0] == 0) return;
  gpu::Launch(PositionEmbeddingKernel, Blocks(p.x), dim3(kThreads), 0, ctx.stream, p.x.as<float>(), p.x.row_stride,
              p.positions.as<const int32_t>(), p.table.as<const F16>(), p.table.row_stride, width, kOffset);
}

}  // namespace optserve::cuda
