#include <algorithm>
#include <utility>

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

// Work is cut into units of one sequence, up to kTilesPerUnit tiles of its queries and some heads: enough units that
// the threads that are free can take more of them, and few enough that claiming one costs little beside it.
constexpr int64_t kTilesPerUnit = 4;
constexpr int64_t kUnitsPerThread = 8;

void Attend(const CpuContext& ctx, const PagedAttentionParams& p) {
  Check(p);
  const int64_t num_sequences = p.context_lens.dims[0], num_heads = p.q.dims[1], head_size = p.q.dims[2];
  constexpr int64_t kQueriesPerUnit = kTilesPerUnit * kQueryTile;
  const int32_t* starts = p.query_starts.as<const int32_t>();
  const int32_t* context_lens = p.context_lens.as<const int32_t>();
  const auto num_spans = [&](int64_t i) { return (starts[i + 1] - starts[i] + kQueriesPerUnit - 1) / kQueriesPerUnit; };
  int64_t total_spans = 0;
  for (int64_t i = 0; i < num_sequences; ++i) {
    OPTSERVE_CHECK(starts[i] < starts[i + 1] && starts[i + 1] - starts[i] <= context_lens[i] &&
                   context_lens[i] <= p.block_tables.dims[1] * p.k_cache.dims[2])
        << "sequence " << i << ": queries " << starts[i] << " to " << starts[i + 1] << ", context " << context_lens[i];
    total_spans += num_spans(i);
  }
  const int64_t wanted_units = kUnitsPerThread * ctx.pool.num_threads();
  const int64_t head_groups = std::clamp<int64_t>((wanted_units + total_spans - 1) / total_spans, 1, num_heads);

  ctx.pool.Run(static_cast<int>(total_spans * head_groups), [&](int unit, int thread) {
    const int64_t group = unit % head_groups;
    int64_t span = unit / head_groups, i = 0;
    if (total_spans == num_sequences) std::swap(i, span);
    for (; span >= num_spans(i); ++i) span -= num_spans(i);
    // Late queries attend more and take longer, so they come first.
    const int64_t begin = starts[i] + (num_spans(i) - 1 - span) * kQueriesPerUnit;
    const int64_t end = std::min<int64_t>(begin + kQueriesPerUnit, starts[i + 1]);
    AttentionJob job{.q_stride = p.q.row_stride,
                     .out_stride = p.out.row_stride,
                     .k_cache = p.k_cache.as<const float>(),
                     .v_cache = p.v_cache.as<const float>(),
                     .block_table = p.block_tables.Rows(i, 1).as<const int32_t>(),
                     .num_heads = num_heads,
                     .block_size = p.k_cache.dims[2],
                     .head_size = head_size,
                     .scale = p.scale};
    for (job.head = num_heads * group / head_groups; job.head < num_heads * (group + 1) / head_groups; ++job.head) {
      for (int64_t t = begin; t < end; t += kQueryTile) {
        job.num_queries = std::min<int64_t>(kQueryTile, end - t);
        job.first_position = context_lens[i] - (starts[i + 1] - t);
        job.q = p.q.Rows(t, 1).as<const float>() + job.head * head_size;
        job.out = p.out.Rows(t, 1).as<float>() + job.head * head_size;
        OPTSERVE_SIMD_CALL(ctx.info.isa, AttendTile)(job, ctx.scratch(thread));
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
