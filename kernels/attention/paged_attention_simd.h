#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/simd.h"

namespace optserve {

// Queries of one sequence that are computed together, because they share the keys and values they read.
inline constexpr int64_t kQueryTile = 32;

// One head, up to kQueryTile neighbouring queries of one sequence.
struct AttentionJob {
  const float* q = nullptr;  // [num_queries, D], this head's part
  int64_t q_stride = 0;
  float* out = nullptr;  // [num_queries, D]
  int64_t out_stride = 0;
  int64_t num_queries = 0;
  int64_t first_position = 0;      // in the sequence, of the first query; it attends positions 0 .. first_position
  const float* k_cache = nullptr;  // [P, H, B, D]
  const float* v_cache = nullptr;  // [P, H, B, D]
  const int32_t* block_table = nullptr;
  int64_t num_heads = 0;
  int64_t head = 0;
  int64_t block_size = 0;
  int64_t head_size = 0;
  float scale = 0.0f;
};

constexpr size_t AttentionScratchBytes(int64_t head_size) {
  return static_cast<size_t>(2 * kQueryTile * (head_size + 16)) * sizeof(float);
}

// `scratch` has AttentionScratchBytes(head_size), aligned to 64 bytes.
OPTSERVE_SIMD_FUNCTION(void AttendTile(const AttentionJob& job, std::byte* scratch))

}  // namespace optserve
