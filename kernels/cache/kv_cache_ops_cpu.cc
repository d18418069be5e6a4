#include <algorithm>

#include "kernels/cache/kv_cache_ops.h"
#include "kernels/common/check.h"
#include "kernels/common/parallel_for.h"

namespace optserve::cpu {
namespace {

// Floats that are worth a thread: fewer are copied before another has woken up.
constexpr int64_t kFloatsPerThread = 16 * 1024;

int64_t Grain(int64_t row_size) { return std::max<int64_t>(1, kFloatsPerThread / std::max<int64_t>(1, row_size)); }

}  // namespace

void WriteKv(const CpuContext& ctx, const WriteKvParams& p) {
  const int64_t heads = p.k_cache.dims[1], block_size = p.k_cache.dims[2], head_size = p.k_cache.dims[3];
  OPTSERVE_CHECK(p.k_cache.rank == 4 && p.k_cache.is_contiguous() && p.k_cache.dims == p.v_cache.dims &&
                 p.v_cache.is_contiguous());
  OPTSERVE_CHECK(p.k.rank == 3 && p.k.dims == p.v.dims && p.k.dims[1] == heads && p.k.dims[2] == head_size);
  OPTSERVE_CHECK(p.slots.dtype == DType::kI32 && p.slots.dims[0] == p.k.dims[0]);
  ParallelFor(ctx, p.k.dims[0], Grain(2 * heads * head_size), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t slot = p.slots.as<const int32_t>()[t];
      const int64_t block = slot / block_size, offset = slot % block_size;
      OPTSERVE_CHECK(slot >= 0 && block < p.k_cache.dims[0]) << "slot " << slot << " of token " << t;
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at = ((block * heads + h) * block_size + offset) * head_size;
        std::copy_n(p.k.Rows(t, 1).as<const float>() + h * head_size, head_size, p.k_cache.as<float>() + at);
        std::copy_n(p.v.Rows(t, 1).as<const float>() + h * head_size, head_size, p.v_cache.as<float>() + at);
      }
    }
  });
}

void CopyBlocks(const CpuContext& ctx, const CopyBlocksParams& p) {
  OPTSERVE_CHECK(p.k_cache.rank == 4 && p.k_cache.is_contiguous() && p.k_cache.dims == p.v_cache.dims &&
                 p.v_cache.is_contiguous());
  OPTSERVE_CHECK(p.src.dims[0] == p.dst.dims[0]);
  const int64_t size = p.k_cache.row_size();
  ParallelFor(ctx, p.src.dims[0], Grain(2 * size), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t src = p.src.as<const int32_t>()[i], dst = p.dst.as<const int32_t>()[i];
      OPTSERVE_CHECK(std::min(src, dst) >= 0 && std::max(src, dst) < p.k_cache.dims[0] && src != dst)
          << "copy of block " << src << " to " << dst << " in a pool of " << p.k_cache.dims[0];
      std::copy_n(p.k_cache.as<const float>() + src * size, size, p.k_cache.as<float>() + dst * size);
      std::copy_n(p.v_cache.as<const float>() + src * size, size, p.v_cache.as<float>() + dst * size);
    }
  });
}

void GatherRows(const CpuContext& ctx, const GatherRowsParams& p) {
  OPTSERVE_CHECK(p.out.rank == 2 && p.x.rank == 2 && p.out.dims[1] == p.x.dims[1]);
  OPTSERVE_CHECK(p.rows.dtype == DType::kI32 && p.rows.dims[0] == p.out.dims[0]);
  ParallelFor(ctx, p.out.dims[0], Grain(p.x.dims[1]), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t row = p.rows.as<const int32_t>()[r];
      OPTSERVE_CHECK(row >= 0 && row < p.x.dims[0]) << "row " << row << " of " << p.x.dims[0];
      std::copy_n(p.x.Rows(row, 1).as<const float>(), p.x.dims[1], p.out.Rows(r, 1).as<float>());
    }
  });
}

void CopyRows(const CpuContext& ctx, const CopyRowsParams& p) {
  OPTSERVE_CHECK(p.dst.rank == 2 && p.src.rank == 2 && p.dst.dims == p.src.dims);
  ParallelFor(ctx, p.dst.dims[0], Grain(p.src.dims[1]), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      std::copy_n(p.src.Rows(r, 1).as<const float>(), p.src.dims[1], p.dst.Rows(r, 1).as<float>());
    }
  });
}

}  // namespace optserve::cpu
