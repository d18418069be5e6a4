#include "kernels/cache/kv_cache_ops.h"
#include "kernels/common/check.h"
#include "kernels/common/cuda_context.h"
#include "kernels/common/gpu.h"

// Tries                                                      time             on
// WriteKv: one block a token, 16 bytes a thread              not yet measured
// CopyBlocks: one block a copied block and half of it        not yet measured

namespace optserve::cuda {
namespace {

constexpr int kThreads = 128;

// One block copies one token's keys (blockIdx.y 0) or values (1) into its slot.
__global__ void __launch_bounds__(kThreads)
    WriteKvKernel(F16* k_cache, F16* v_cache, const F16* k, const F16* v, int64_t k_stride, int64_t v_stride,
                  const int32_t* slots, int heads, int block_size, int head_size) {
  const int64_t slot = slots[blockIdx.x];
  if (slot < 0) return;  // the whole block
  const int64_t block = slot / block_size, offset = slot % block_size;
  const bool keys = blockIdx.y == 0;
  const F16* from = keys ? k + blockIdx.x * k_stride : v + blockIdx.x * v_stride;
  F16* cache = keys ? k_cache : v_cache;
  const int pieces = head_size / 8;  // of 16 bytes
  for (int i = threadIdx.x; i < heads * pieces; i += kThreads) {
    const int head = i / pieces, piece = i % pieces;
    F16* to = cache + ((block * heads + head) * block_size + offset) * head_size;
    reinterpret_cast<uint4*>(to)[piece] = reinterpret_cast<const uint4*>(from + int64_t{head} * head_size)[piece];
  }
}

__global__ void __launch_bounds__(kThreads)
    CopyBlocksKernel(F16* k_cache, F16* v_cache, const int32_t* src, const int32_t* dst, int64_t block_elements) {
  uint4* cache = reinterpret_cast<uint4*>(blockIdx.y == 0 ? k_cache : v_cache);
  const int64_t pieces = block_elements / 8;
  const uint4* from = cache + src[blockIdx.x] * pieces;
  uint4* to = cache + dst[blockIdx.x] * pieces;
  for (int64_t i = threadIdx.x; i < pieces; i += kThreads) to[i] = from[i];
}

__global__ void __launch_bounds__(kThreads) CopyRowsKernel(float* dst, int64_t dst_stride, const float* src,
                                                           int64_t src_stride, const int32_t* rows, int64_t width) {
  const int64_t row = rows != nullptr ? rows[blockIdx.x] : static_cast<int64_t>(blockIdx.x);
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    dst[blockIdx.x * dst_stride + i] = src[row * src_stride + i];
  }
}

bool IsCache(const TensorView& k, const TensorView& v) {
  return k.rank == 4 && k.is_contiguous() && v.is_contiguous() && k.dims == v.dims && k.dtype == DType::kF16 &&
         v.dtype == DType::kF16 && k.dims[3] % 8 == 0;
}

}  // namespace

void WriteKv(const CudaContext& ctx, const WriteKvParams& p) {
  OPTSERVE_CHECK(IsCache(p.k_cache, p.v_cache));
  OPTSERVE_CHECK(p.k.rank == 3 && p.k.dims == p.v.dims && p.k.dims[1] == p.k_cache.dims[1]);
  OPTSERVE_CHECK(p.k.dims[2] == p.k_cache.dims[3] && p.k.dtype == DType::kF16 && p.v.dtype == DType::kF16);
  OPTSERVE_CHECK(RowsAreAligned(p.k.data, p.k.row_stride) && RowsAreAligned(p.v.data, p.v.row_stride));
  OPTSERVE_CHECK(p.slots.dims[0] == p.k.dims[0]);
  if (p.k.dims[0] == 0) return;
  gpu::Launch(WriteKvKernel, dim3(static_cast<unsigned>(p.k.dims[0]), 2), dim3(kThreads), 0, ctx.stream,
              p.k_cache.as<F16>(), p.v_cache.as<F16>(), p.k.as<const F16>(), p.v.as<const F16>(), p.k.row_stride,
              p.v.row_stride, p.slots.as<const int32_t>(), static_cast<int>(p.k.dims[1]),
              static_cast<int>(p.k_cache.dims[2]), static_cast<int>(p.k.dims[2]));
}

void CopyBlocks(const CudaContext& ctx, const CopyBlocksParams& p) {
  OPTSERVE_CHECK(IsCache(p.k_cache, p.v_cache) && p.src.dims[0] == p.dst.dims[0]);
  if (p.src.dims[0] == 0) return;
  gpu::Launch(CopyBlocksKernel, dim3(static_cast<unsigned>(p.src.dims[0]), 2), dim3(kThreads), 0, ctx.stream,
              p.k_cache.as<F16>(), p.v_cache.as<F16>(), p.src.as<const int32_t>(), p.dst.as<const int32_t>(),
              p.k_cache.row_size());
}

void GatherRows(const CudaContext& ctx, const GatherRowsParams& p) {
  OPTSERVE_CHECK(p.out.rank == 2 && p.x.rank == 2 && p.out.dims[1] == p.x.dims[1]);
  OPTSERVE_CHECK(p.out.dtype == DType::kF32 && p.x.dtype == DType::kF32 && p.rows.dims[0] == p.out.dims[0]);
  if (p.out.dims[0] == 0) return;
  gpu::Launch(CopyRowsKernel, dim3(static_cast<unsigned>(p.out.dims[0])), dim3(kThreads), 0, ctx.stream,
              p.out.as<float>(), p.out.row_stride, p.x.as<const float>(), p.x.row_stride, p.rows.as<const int32_t>(),
              p.x.dims[1]);
}

void CopyRows(const CudaContext& ctx, const CopyRowsParams& p) {
  OPTSERVE_CHECK(p.dst.rank == 2 && p.src.rank == 2 && p.dst.dims == p.src.dims);
  OPTSERVE_CHECK(p.dst.dtype == DType::kF32 && p.src.dtype == DType::kF32);
  if (p.dst.dims[0] == 0) return;
  gpu::Launch(CopyRowsKernel, dim3(static_cast<unsigned>(p.dst.dims[0])), dim3(kThreads), 0, ctx.stream,
              p.dst.as<float>(), p.dst.row_stride, p.src.as<const float>(), p.src.row_stride,
              static_cast<const int32_t*>(nullptr), p.src.dims[1]);
}

}  // namespace optserve::cuda
