#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/attention/paged_attention.h"
#include "kernels/common/check.h"
#include "kernels/common/gpu.h"

// What both attention kernels share: what they are given, where a token lies in the cache, and for which head sizes
// they are compiled.

namespace optserve::cuda {

struct PagedJob {
  F16* out;
  int64_t out_stride;
  const F16* q;
  int64_t q_stride;
  const F16 *k_cache, *v_cache;
  const int32_t* tables;
  int64_t table_stride;
  const int32_t* context_lens;
  int heads, block_size;
};

// Where the row of token number `token` of a sequence with this table begins, for one head.
template <int kHeadSize>
GPU_DEVICE int64_t CacheRow(const PagedJob& job, const int32_t* table, int head, int token) {
  const int64_t block = table[token / job.block_size];
  return ((block * job.heads + head) * job.block_size + token % job.block_size) * kHeadSize;
}

// Checks what both kernels need of their tensors.
inline PagedJob MakePagedJob(const PagedAttentionParams& p) {
  const int64_t heads = p.q.dims[1], head_size = p.q.dims[2];
  OPTSERVE_CHECK(p.q.rank == 3 && p.q.dtype == DType::kF16 && p.out.dtype == DType::kF16 && p.out.dims == p.q.dims);
  OPTSERVE_CHECK(p.q.row_stride % 8 == 0 && reinterpret_cast<uintptr_t>(p.q.data) % 16 == 0);
  OPTSERVE_CHECK(p.k_cache.dtype == DType::kF16 && p.k_cache.is_contiguous() && p.v_cache.is_contiguous() &&
                 p.k_cache.dims == p.v_cache.dims && p.k_cache.dims[1] == heads && p.k_cache.dims[3] == head_size);
  OPTSERVE_CHECK(p.max_context_len <= p.block_tables.dims[1] * p.k_cache.dims[2])
      << "context " << p.max_context_len << " in " << p.block_tables.dims[1] << " blocks";
  return {.out = p.out.as<F16>(),
          .out_stride = p.out.row_stride,
          .q = p.q.as<const F16>(),
          .q_stride = p.q.row_stride,
          .k_cache = p.k_cache.as<const F16>(),
          .v_cache = p.v_cache.as<const F16>(),
          .tables = p.block_tables.as<const int32_t>(),
          .table_stride = p.block_tables.row_stride,
          .context_lens = p.context_lens.as<const int32_t>(),
          .heads = static_cast<int>(heads),
          .block_size = static_cast<int>(p.k_cache.dims[2])};
}

// launch(n), where decltype(n)::value is the head size.
template <typename Launch>
void WithHeadSize(int64_t head_size, const Launch& launch) {
  switch (head_size) {
    case 16:
      return launch(std::integral_constant<int, 16>());
    case 32:
      return launch(std::integral_constant<int, 32>());
    case 64:
      return launch(std::integral_constant<int, 64>());
    case 80:
      return launch(std::integral_constant<int, 80>());
    case 128:
      return launch(std::integral_constant<int, 128>());
    default:
      OPTSERVE_CHECK(false) << "no attention kernel for a head size of " << head_size;
  }
}

}  // namespace optserve::cuda
