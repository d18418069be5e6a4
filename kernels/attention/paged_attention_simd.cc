#include "kernels/attention/paged_attention_simd.h"

// Running softmax over chunks of kChunk positions, counted from position 0 of the sequence. Each query goes through its
// own chunks in its own order, whichever queries share the tile: what it reads is shared, what it computes is not. That
// is why the bits of a row do not depend on how a prompt was cut into chunks.

namespace optserve::OPTSERVE_ISA {
namespace {

inline constexpr int64_t kChunk = 2 * kLanes;
inline constexpr float kMinusInfinity = -__builtin_inff();

// The keys and values of one chunk.
struct Rows {
  const float* k[kChunk];
  const float* v[kChunk];
};

OPTSERVE_SIMD_INLINE void FindRows(const AttentionJob& job, int64_t first, int64_t n, Rows& rows) {
  for (int64_t j = 0; j < n; ++j) {
    const int64_t position = first + j;
    const int64_t block = job.block_table[position / job.block_size];
    const int64_t at =
        ((block * job.num_heads + job.head) * job.block_size + position % job.block_size) * job.head_size;
    rows.k[j] = job.k_cache + at;
    rows.v[j] = job.v_cache + at;
  }
}

// kD: the head size, or 0 where it is not known at compile time.
template <int kQueries, int kD>
OPTSERVE_SIMD_INLINE void Scores(const AttentionJob& job, const float* k, float (*scores)[kChunk], int64_t j) {
  const int64_t head_size = kD != 0 ? kD : job.head_size;
  F32x16 sum[kQueries];
  for (int q = 0; q < kQueries; ++q) sum[q] = Zero();
  int64_t d = 0;
  for (; d + kLanes <= head_size; d += kLanes) {
    const F32x16 key = Load(k + d);
    for (int q = 0; q < kQueries; ++q) sum[q] = Fma(Load(job.q + q * job.q_stride + d), key, sum[q]);
  }
  if (d < head_size) {
    const F32x16 key = LoadFirst(k + d, head_size - d);
    for (int q = 0; q < kQueries; ++q) {
      sum[q] = Fma(LoadFirst(job.q + q * job.q_stride + d, head_size - d), key, sum[q]);
    }
  }
  for (int q = 0; q < kQueries; ++q) scores[q][j] = job.scale * ReduceAdd(sum[q]);
}

// kVectors vectors of the head at once, so that enough independent sums are under way.
template <int kQueries, int kVectors>
OPTSERVE_SIMD_INLINE void AddValues(const Rows& rows, int64_t d, const int64_t* counts, int64_t common,
                                    const float* decay, const float (*p)[kChunk], float* acc, int64_t acc_stride) {
  F32x16 sum[kQueries][kVectors];
  for (int q = 0; q < kQueries; ++q) {
    for (int u = 0; u < kVectors; ++u) sum[q][u] = Mul(Load(acc + q * acc_stride + d + u * kLanes), Set(decay[q]));
  }
  for (int64_t j = 0; j < common; ++j) {
    for (int u = 0; u < kVectors; ++u) {
      const F32x16 value = Load(rows.v[j] + d + u * kLanes);
      for (int q = 0; q < kQueries; ++q) sum[q][u] = Fma(Set(p[q][j]), value, sum[q][u]);
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    for (int64_t j = common; j < counts[q]; ++j) {
      for (int u = 0; u < kVectors; ++u) {
        sum[q][u] = Fma(Set(p[q][j]), Load(rows.v[j] + d + u * kLanes), sum[q][u]);
      }
    }
    for (int u = 0; u < kVectors; ++u) {
      if (counts[q] > 0) Store(acc + q * acc_stride + d + u * kLanes, sum[q][u]);
    }
  }
}

template <int kQueries>
OPTSERVE_SIMD_INLINE void AddValuesTail(const Rows& rows, int64_t d, int64_t n, const int64_t* counts,
                                        const float* decay, const float (*p)[kChunk], float* acc, int64_t acc_stride) {
  for (int q = 0; q < kQueries; ++q) {
    if (counts[q] <= 0) continue;
    F32x16 sum = Mul(LoadFirst(acc + q * acc_stride + d, n), Set(decay[q]));
    for (int64_t j = 0; j < counts[q]; ++j) sum = Fma(Set(p[q][j]), LoadFirst(rows.v[j] + d, n), sum);
    StoreFirst(acc + q * acc_stride + d, n, sum);
  }
}

template <int kQueries, int kD>
void Attend(const AttentionJob& job, float* acc) {
  const int64_t head_size = kD != 0 ? kD : job.head_size;
  const int64_t acc_stride = (head_size + kLanes - 1) / kLanes * kLanes;
  float largest[kQueries], total[kQueries];
  for (int q = 0; q < kQueries; ++q) {
    largest[q] = kMinusInfinity;
    total[q] = 0.0f;
    for (int64_t d = 0; d < head_size; ++d) acc[q * acc_stride + d] = 0.0f;
  }

  const int64_t last_position = job.first_position + kQueries - 1;
  for (int64_t first = 0; first <= last_position; first += kChunk) {
    const int64_t n = last_position + 1 - first < kChunk ? last_position + 1 - first : kChunk;
    Rows rows;
    FindRows(job, first, n, rows);
    alignas(64) float p[kQueries][kChunk];
    for (int64_t j = 0; j < n; ++j) Scores<kQueries, kD>(job, rows.k[j], p, j);

    int64_t counts[kQueries];  // keys of this chunk that each query attends; 0 or less: none
    float decay[kQueries];
    for (int q = 0; q < kQueries; ++q) {
      const int64_t count = job.first_position + q + 1 - first;
      counts[q] = count < kChunk ? count : kChunk;
      decay[q] = 1.0f;
      if (count <= 0) continue;
      for (int64_t j = counts[q]; j < kChunk; ++j) p[q][j] = kMinusInfinity;
      const F32x16 low = Load(p[q]), high = Load(p[q] + kLanes);
      const float chunk_largest = ReduceMax(Max(low, high));
      const float now = largest[q] > chunk_largest ? largest[q] : chunk_largest;
      float scaled[kLanes];
      Store(scaled, Exp(Set(largest[q] - now)));
      decay[q] = scaled[0];
      const F32x16 exp_low = Exp(Sub(low, Set(now))), exp_high = Exp(Sub(high, Set(now)));
      Store(p[q], exp_low);
      Store(p[q] + kLanes, exp_high);
      total[q] = total[q] * decay[q] + ReduceAdd(Add(exp_low, exp_high));
      largest[q] = now;
    }

    const int64_t common = counts[0] > 0 ? counts[0] : 0;  // positions ascend, so the first query attends the fewest
    constexpr int kVectors = kQueries == 1 ? 4 : 2;
    int64_t d = 0;
    for (; d + kVectors * kLanes <= head_size; d += kVectors * kLanes) {
      AddValues<kQueries, kVectors>(rows, d, counts, common, decay, p, acc, acc_stride);
    }
    for (; d + kLanes <= head_size; d += kLanes) {
      AddValues<kQueries, 1>(rows, d, counts, common, decay, p, acc, acc_stride);
    }
    if (d < head_size) AddValuesTail<kQueries>(rows, d, head_size - d, counts, decay, p, acc, acc_stride);
  }

  for (int q = 0; q < kQueries; ++q) {
    const F32x16 by = Set(total[q]);
    float* out = job.out + q * job.out_stride;
    int64_t d = 0;
    for (; d + kLanes <= head_size; d += kLanes) Store(out + d, Div(Load(acc + q * acc_stride + d), by));
    if (d < head_size) {
      StoreFirst(out + d, head_size - d, Div(LoadFirst(acc + q * acc_stride + d, head_size - d), by));
    }
  }
}

template <int kD>
void AttendQueries(const AttentionJob& job, float* acc) {
  if (job.num_queries == 4) return Attend<4, kD>(job, acc);
  if (job.num_queries == 3) return Attend<3, kD>(job, acc);
  if (job.num_queries == 2) return Attend<2, kD>(job, acc);
  Attend<1, kD>(job, acc);
}

}  // namespace

void AttendTile(const AttentionJob& job, std::byte* scratch) {
  float* acc = reinterpret_cast<float*>(scratch);
  if (job.head_size == 64) return AttendQueries<64>(job, acc);
  if (job.head_size == 80) return AttendQueries<80>(job, acc);
  if (job.head_size == 128) return AttendQueries<128>(job, acc);
  AttendQueries<0>(job, acc);
}

}  // namespace optserve::OPTSERVE_ISA
