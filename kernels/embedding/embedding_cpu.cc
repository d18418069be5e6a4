#include <algorithm>

#include "kernels/common/check.h"
#include "kernels/common/parallel_for.h"
#include "kernels/embedding/embedding.h"
#include "kernels/embedding/embedding_simd.h"

namespace optserve::cpu {

// Rows that one thread takes at least: fewer are done before another thread has woken up.
constexpr int64_t kGrain = 16;

void Embedding(const CpuContext& ctx, const EmbeddingParams& p) {
  const int64_t width = p.table.dims[1];
  OPTSERVE_CHECK(p.out.rank == 2 && p.out.dtype == DType::kF32 && p.out.dims[1] == width);
  OPTSERVE_CHECK(p.ids.dtype == DType::kI32 && p.ids.dims[0] == p.out.dims[0]);
  OPTSERVE_CHECK(p.drawn.empty() || p.drawn.dtype == DType::kI32);
  ParallelFor(ctx, p.out.dims[0], kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* out = p.out.Rows(t, 1).as<float>();
      int32_t id = p.ids.as<const int32_t>()[t];
      if (id < 0 && ~id < p.drawn.dims[0]) id = p.drawn.as<const int32_t>()[~id];
      const int64_t row = int64_t{id} - p.first_id;
      if (row < 0 || row >= p.table.dims[0]) {
        std::fill_n(out, width, 0.0f);
      } else {
        OPTSERVE_SIMD_CALL(ctx.info.isa, WidenRow)(out, p.table.Rows(row, 1).data, p.table.dtype, width);
      }
    }
  });
}

void PositionEmbedding(const CpuContext& ctx, const PositionEmbeddingParams& p) {
  constexpr int64_t kOffset = 2;  // the checkpoint's two padding rows
  const int64_t width = p.table.dims[1];
  OPTSERVE_CHECK(p.x.rank == 2 && p.x.dtype == DType::kF32 && p.x.dims[1] == width);
  OPTSERVE_CHECK(p.positions.dtype == DType::kI32 && p.positions.dims[0] == p.x.dims[0]);
  ParallelFor(ctx, p.x.dims[0], kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = p.positions.as<const int32_t>()[t] + kOffset;
      OPTSERVE_CHECK(row >= kOffset && row < p.table.dims[0])
          << "position " << row - kOffset << " of " << p.table.dims[0] - kOffset;
      OPTSERVE_SIMD_CALL(ctx.info.isa, AddWideRow)
      (p.x.Rows(t, 1).as<float>(), p.table.Rows(row, 1).data, p.table.dtype, width);
    }
  });
}

}  // namespace optserve::cpu
