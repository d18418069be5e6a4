#include <algorithm>

#include "kernels/attention/paged_attention.h"
#include "kernels/attention/paged_attention_simd.h"
#include "kernels/common/check.h"
#include "kernels/common/cpu_context.h"

namespace optserve::cpu {
namespace {

void Check(const PagedAttentionParams& p) {
  OPTSERVE_CHECK(p.q.rank == 3 && p.q.dtype == DType::kF32 && p.out.rank == 3 && p.out.dims == p.q.dims);
  OPTSERVE_CHECK(p.k_cache.rank == 4 && p.k_cache.is_contiguous() && p.v_cache.is_contiguous() &&
                 p.k_cache.dims == p.v_cache.dims);
  OPTSERVE_CHECK(p.k_cache.dims[1] == p.q.dims[1] && p.k_cache.dims[3] == p.q.dims[2]);
  OPTSERVE_CHECK(p.query_starts.dims[0] == p.context_lens.dims[0] + 1);
  OPTSERVE_CHECK(p.block_tables.rank == 2 && p.block_tables.dims[0] == p.context_lens.dims[0]);
  OPTSERVE_CHECK(AttentionScratchBytes(p.q.dims[2]) <= CpuContext::kScratchBytes) << "head size " << p.q.dims[2];
}

// Tiles are dealt out in turn rather than in ranges: those late in a prompt attend more and take longer.
void Attend(const CpuContext& ctx, const PagedAttentionParams& p) {
  Check(p);
  const int64_t num_sequences = p.context_lens.dims[0], num_heads = p.q.dims[1], head_size = p.q.dims[2];
  const int32_t* starts = p.query_starts.as<const int32_t>();
  const int num_units = ctx.pool.num_threads() == 1 ? 1 : 8 * ctx.pool.num_threads();
  ctx.pool.Run(num_units, [&](int unit, int thread) {
    int64_t turn = 0;
    for (int64_t i = 0; i < num_sequences; ++i) {
      const int64_t context_len = p.context_lens.as<const int32_t>()[i];
      OPTSERVE_CHECK(starts[i] < starts[i + 1] && starts[i + 1] - starts[i] <= context_len &&
                     context_len <= p.block_tables.dims[1] * p.k_cache.dims[2]);
      AttentionJob job{.q_stride = p.q.row_stride,
                       .out_stride = p.out.row_stride,
                       .k_cache = p.k_cache.as<const float>(),
                       .v_cache = p.v_cache.as<const float>(),
                       .block_table = p.block_tables.Rows(i, 1).as<const int32_t>(),
                       .num_heads = num_heads,
                       .block_size = p.k_cache.dims[2],
                       .head_size = head_size,
                       .scale = p.scale};
      for (int64_t t = starts[i]; t < starts[i + 1]; t += kQueryTile) {
        job.num_queries = std::min<int64_t>(kQueryTile, starts[i + 1] - t);
        job.first_position = context_len - (starts[i + 1] - t);
        for (int64_t h = 0; h < num_heads; ++h, ++turn) {
          if (turn % num_units != unit) continue;
          job.head = h;
          job.q = p.q.Rows(t, 1).as<const float>() + h * head_size;
          job.out = p.out.Rows(t, 1).as<float>() + h * head_size;
          OPTSERVE_SIMD_CALL(ctx.info.isa, AttendTile)(job, ctx.scratch(thread));
        }
      }
    }
  });
}

}  // namespace

void PagedDecode(const CpuContext& ctx, const PagedAttentionParams& p) {
  OPTSERVE_CHECK(p.q.dims[0] == p.context_lens.dims[0]) << "a decoding sequence has one query";
  Attend(ctx, p);
}

void PagedPrefill(const CpuContext& ctx, const PagedAttentionParams& p) { Attend(ctx, p); }

}  // namespace optserve::cpu
