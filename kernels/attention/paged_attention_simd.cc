#include "kernels/attention/paged_attention_simd.h"

// Running softmax over chunks of kChunk positions, counted from position 0 of the sequence. For each query and chunk:
//
//   s_j   = one chain of Fma over d = 0, 1, ... of (scale * q_d) and K_jd
//   next  = max(largest, s_0, s_1, ...)
//   decay = exp(largest - next),  p_j = exp(s_j - next), 0 where the query attends no position
//   total = total * decay + the sum of all kChunk p_j, as ReduceAdd's tree
//   acc_d = acc_d * decay, then Fma(p_j, V_jd, acc_d) for j = 0, 1, ...
//
// There are two ways through it. AttendQuery takes one query and has its positions, then the head's elements, in the
// lanes of a vector: it reads keys and values once and is bound by that. AttendQueries has neighbouring queries in the
// lanes and is bound by arithmetic. Both do, for a query, exactly the operations above in that order: that is why a
// row's bits do not depend on how a prompt was cut into chunks. (Where a query in company attends fewer positions than
// its neighbours, it adds 0 * V, which changes nothing.)
//
// Tried, H = 12, D = 64, 1024 queries, on one core of a busy Zen 5 with a peak of 255 GFLOP/s:
//   four queries share loads, each score is reduced across lanes     67 GFLOP/s
//   sixteen queries in lanes                                        151 GFLOP/s, and always on AVX2
//   thirty-two, so that a broadcast serves two products             189 GFLOP/s, AVX-512 with more than 16 queries
//
// Decoding, 32 sequences of 96 tokens, 12 layers of 226 MB of keys and values together, two cores, 84 GB/s:
//   as is                                                           4.9 ms
//   the two groups of a chunk's keys one after the other            5.0 ms
//   without prefetching                                             7.0 ms
//   prefetching this chunk's values and the next one's keys         5.4 ms
//   prefetching into the L2 cache, one or two chunks ahead          5.2 and 5.4 ms
//
// The same on another day, when plain reading in any of five orders reached 52 GB/s, 4.2 ms: 4.8 to 6.6 ms, of which
// 1.3 are arithmetic (all sequences given the same blocks). A cache of keys as [P, H, D, B], which saves the
// transposes: 4.1 to 5.7 ms, 3 % of a step, not worth a second layout with scattered writes.

namespace optserve::OPTSERVE_ISA {
namespace {

inline constexpr int64_t kChunk = 2 * kLanes;
inline constexpr float kMinusInfinity = -__builtin_inff();

// With fewer, idle lanes cost more than reading again what is in the cache.
inline constexpr int64_t kFewestQueries = 3;

// Independent sums of AttendQueries, as many as the registers hold.
#if defined(__AVX512F__)
inline constexpr int kKeysAtOnce = 8, kValuesAtOnce = 16;
#elif defined(__AVX2__)
inline constexpr int kKeysAtOnce = 4, kValuesAtOnce = 4;
#else
inline constexpr int kKeysAtOnce = 2, kValuesAtOnce = 2;
#endif

// Where a chunk's keys lie in k_cache, and its values in v_cache. Behind the last position stands its row again, so
// that loops may run on to whole steps.
struct Rows {
  int64_t at[kChunk];
};

OPTSERVE_SIMD_INLINE void FindRows(const AttentionJob& job, int64_t head, int64_t first, int64_t n, Rows& rows) {
  int64_t block = first / job.block_size, slot = first % job.block_size;
  const auto start_of_block = [&] {
    return (job.block_table[block] * job.num_heads + head) * job.block_size * job.head_size;
  };
  int64_t at = start_of_block() + slot * job.head_size;
  for (int64_t j = 0; j < kChunk; ++j) {
    rows.at[j] = at;
    if (j + 1 >= n) continue;
    at += job.head_size;
    if (++slot == job.block_size) {
      slot = 0;
      ++block;
      at = start_of_block();
    }
  }
}

OPTSERVE_SIMD_INLINE F32x16 LoadUpTo(const float* p, int64_t n) { return n >= kLanes ? Load(p) : LoadFirst(p, n); }
OPTSERVE_SIMD_INLINE void StoreUpTo(float* p, int64_t n, F32x16 a) { n >= kLanes ? Store(p, a) : StoreFirst(p, n, a); }

// ---------------------------------------------------------------- one query

// The scores of kGroups * kLanes positions. Keys lie one position a row; the chain over d wants one d a row. The
// groups' chains run side by side. Asks memory for the next chunk's keys meanwhile.
template <int kGroups>
OPTSERVE_SIMD_INLINE void ScoresOfKeys(const float* k, const Rows& rows, const Rows& next, const float* q,
                                       int64_t head_size, float* scores) {
  F32x16 sum[kGroups];
  for (int g = 0; g < kGroups; ++g) sum[g] = Zero();
  F32x16 keys[kLanes];
  int64_t d = 0;
  for (; d + kLanes <= head_size; d += kLanes) {
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        keys[i] = Load(k + rows.at[g * kLanes + i] + d);
        __builtin_prefetch(k + next.at[g * kLanes + i] + d);
      }
      Transpose(keys);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) sum[g] = Fma(Set(q[d + i]), keys[i], sum[g]);
    }
  }
  if (d < head_size) {
    for (int g = 0; g < kGroups; ++g) {
      for (int i = 0; i < kLanes; ++i) keys[i] = LoadFirst(k + rows.at[g * kLanes + i] + d, head_size - d);
      Transpose(keys);
      for (int64_t i = 0; i < head_size - d; ++i) sum[g] = Fma(Set(q[d + i]), keys[i], sum[g]);
    }
  }
  for (int g = 0; g < kGroups; ++g) Store(scores + g * kLanes, sum[g]);
}

// kVectors vectors of the head at once, so that enough independent sums are under way. Asks memory for the next chunk's
// values meanwhile.
template <int kVectors>
OPTSERVE_SIMD_INLINE void AddValues(const float* v, const Rows& rows, const Rows& next, int64_t n, const float* p,
                                    float decay, float* acc) {
  F32x16 sum[kVectors];
  for (int u = 0; u < kVectors; ++u) sum[u] = Mul(Load(acc + u * kLanes), Set(decay));
  for (int64_t j = 0; j < n; ++j) {
    const F32x16 weight = Set(p[j]);
    for (int u = 0; u < kVectors; ++u) {
      sum[u] = Fma(weight, Load(v + rows.at[j] + u * kLanes), sum[u]);
      __builtin_prefetch(v + next.at[j] + u * kLanes);
    }
  }
  for (int u = 0; u < kVectors; ++u) Store(acc + u * kLanes, sum[u]);
}

// kD: the head size, or 0 where it is not known at compile time.
template <int kD>
void AttendQuery(const AttentionJob& job, int64_t query, float* scratch) {
  const int64_t head_size = kD != 0 ? kD : job.head_size;
  float* q = scratch;                   // [D], scaled
  float* acc = q + head_size + kLanes;  // [D]
  for (int64_t d = 0; d < head_size; d += kLanes) {
    const F32x16 row = LoadUpTo(job.q + query * job.q_stride + d, head_size - d);
    StoreUpTo(q + d, head_size - d, Mul(row, Set(job.scale)));
    StoreUpTo(acc + d, head_size - d, Zero());
  }
  float largest = kMinusInfinity, total = 0.0f;

  const int64_t num_positions = job.first_position + query + 1;
  const auto find_rows = [&](int64_t head, int64_t first, Rows& rows) {
    FindRows(job, head, first, num_positions - first < kChunk ? num_positions - first : kChunk, rows);
  };
  Rows both[2];
  find_rows(job.head, 0, both[0]);
  for (int64_t first = 0; first < num_positions; first += kChunk) {
    const int64_t n = num_positions - first < kChunk ? num_positions - first : kChunk;
    const Rows& rows = both[first / kChunk % 2];
    Rows& next_rows = both[1 - first / kChunk % 2];
    if (first + kChunk < num_positions) {
      find_rows(job.head, first + kChunk, next_rows);
    } else {
      find_rows(job.head + 1 < job.num_heads ? job.head + 1 : job.head, 0, next_rows);  // likely this thread's next
    }
    alignas(64) float p[kChunk];
    if (n > kLanes) {
      ScoresOfKeys<2>(job.k_cache, rows, next_rows, q, head_size, p);
    } else {
      ScoresOfKeys<1>(job.k_cache, rows, next_rows, q, head_size, p);
    }
    for (int64_t j = n; j < kChunk; ++j) p[j] = kMinusInfinity;

    const F32x16 low = Load(p), high = Load(p + kLanes);
    const float chunk_largest = ReduceMax(Max(low, high));
    const float next = largest > chunk_largest ? largest : chunk_largest;
    float decay[kLanes];
    Store(decay, Exp(Set(largest - next)));
    const F32x16 p_low = Exp(Sub(low, Set(next))), p_high = Exp(Sub(high, Set(next)));
    Store(p, p_low);
    Store(p + kLanes, p_high);
    total = total * decay[0] + ReduceAdd(Add(p_low, p_high));
    largest = next;

    constexpr int kVectors = kD != 0 ? kD / kLanes : 4;
    const float* v = job.v_cache;
    int64_t d = 0;
    for (; d + kVectors * kLanes <= head_size; d += kVectors * kLanes) {
      AddValues<kVectors>(v + d, rows, next_rows, n, p, decay[0], acc + d);
    }
    for (; d + kLanes <= head_size; d += kLanes) AddValues<1>(v + d, rows, next_rows, n, p, decay[0], acc + d);
    for (; d < head_size; ++d) {
      F32x16 sum = Mul(Set(acc[d]), Set(decay[0]));
      for (int64_t j = 0; j < n; ++j) sum = Fma(Set(p[j]), Set(v[rows.at[j] + d]), sum);
      StoreFirst(acc + d, 1, sum);
    }
  }

  float* out = job.out + query * job.out_stride;
  for (int64_t d = 0; d < head_size; d += kLanes) {
    StoreUpTo(out + d, head_size - d, Div(LoadUpTo(acc + d, head_size - d), Set(total)));
  }
}

// ---------------------------------------------------------------- many queries
//
// kV vectors of queries; [..][kV * kLanes] is one row of them.

// scores[j][query] for kRows positions.
template <int kV, int kRows>
OPTSERVE_SIMD_INLINE void ScoresOfQueries(const float* k, const int64_t* at, const float* q, int64_t head_size,
                                          float* scores) {
  F32x16 sum[kRows][kV];
  for (int j = 0; j < kRows; ++j) {
    for (int u = 0; u < kV; ++u) sum[j][u] = Zero();
  }
  for (int64_t d = 0; d < head_size; ++d) {
    F32x16 queries[kV];
    for (int u = 0; u < kV; ++u) queries[u] = Load(q + (d * kV + u) * kLanes);
    for (int j = 0; j < kRows; ++j) {
      const F32x16 key = Set(k[at[j] + d]);
      for (int u = 0; u < kV; ++u) sum[j][u] = Fma(queries[u], key, sum[j][u]);
    }
  }
  for (int j = 0; j < kRows; ++j) {
    for (int u = 0; u < kV; ++u) Store(scores + (j * kV + u) * kLanes, sum[j][u]);
  }
}

// acc[d .. d + kCount)[query], where `scaled` says that decay is not 1 for all.
template <int kV, int kCount>
OPTSERVE_SIMD_INLINE void AddValuesToQueries(const float* v, const int64_t* at, int64_t d, int64_t n, const float* p,
                                             bool scaled, const F32x16* decay, float* acc) {
  F32x16 sum[kCount][kV];
  for (int i = 0; i < kCount; ++i) {
    for (int u = 0; u < kV; ++u) sum[i][u] = Load(acc + ((d + i) * kV + u) * kLanes);
  }
  if (scaled) {
    for (int i = 0; i < kCount; ++i) {
      for (int u = 0; u < kV; ++u) sum[i][u] = Mul(sum[i][u], decay[u]);
    }
  }
  for (int64_t j = 0; j < n; ++j) {
    F32x16 weights[kV];
    for (int u = 0; u < kV; ++u) weights[u] = Load(p + (j * kV + u) * kLanes);
    const float* value = v + at[j] + d;
    for (int i = 0; i < kCount; ++i) {
      const F32x16 one = Set(value[i]);
      for (int u = 0; u < kV; ++u) sum[i][u] = Fma(weights[u], one, sum[i][u]);
    }
  }
  for (int i = 0; i < kCount; ++i) {
    for (int u = 0; u < kV; ++u) Store(acc + ((d + i) * kV + u) * kLanes, sum[i][u]);
  }
}

// Turns the scores of a chunk for one vector of queries into p. Returns decay; updates largest and total.
template <int kV>
OPTSERVE_SIMD_INLINE F32x16 SoftmaxOfQueries(float* p, F32x16& largest, F32x16& total) {
  F32x16 next = largest;
  for (int64_t j = 0; j < kChunk; ++j) next = Max(next, Load(p + j * kV * kLanes));
  const F32x16 decay = Exp(Sub(largest, next));
  F32x16 sum[kLanes];
  for (int64_t j = 0; j < kLanes; ++j) {
    float* at = p + j * kV * kLanes;
    const F32x16 low = Exp(Sub(Load(at), next));
    const F32x16 high = Exp(Sub(Load(at + kLanes * kV * kLanes), next));
    Store(at, low);
    Store(at + kLanes * kV * kLanes, high);
    sum[j] = Add(low, high);
  }
  for (int step = kLanes / 2; step >= 1; step /= 2) {
    for (int j = 0; j < step; ++j) sum[j] = Add(sum[j], sum[j + step]);
  }
  total = Add(Mul(total, decay), sum[0]);
  largest = next;
  return decay;
}

template <int kD, int kV>
void AttendQueries(const AttentionJob& job, float* scratch) {
  constexpr int64_t kQueries = kV * kLanes;
  constexpr int kKeys = kKeysAtOnce, kValues = kValuesAtOnce / kV;
  const int64_t head_size = kD != 0 ? kD : job.head_size;
  const int64_t padded_head = (head_size + kLanes - 1) / kLanes * kLanes;
  float* q = scratch;                             // [D][query], scaled
  float* acc = scratch + padded_head * kQueries;  // [D][query]
  F32x16 square[kLanes];
  for (int64_t d = 0; d < padded_head; d += kLanes) {
    for (int64_t u = 0; u < kV; ++u) {
      for (int64_t i = 0; i < kLanes; ++i) {
        const int64_t query = u * kLanes + i;
        const float* row = job.q + query * job.q_stride + d;
        square[i] = query < job.num_queries ? Mul(LoadUpTo(row, head_size - d), Set(job.scale)) : Zero();
      }
      Transpose(square);
      for (int64_t i = 0; i < kLanes; ++i) {
        Store(q + (d + i) * kQueries + u * kLanes, square[i]);
        Store(acc + (d + i) * kQueries + u * kLanes, Zero());
      }
    }
  }
  F32x16 largest[kV], total[kV], decay[kV];
  for (int u = 0; u < kV; ++u) {
    largest[u] = Set(kMinusInfinity);
    total[u] = Zero();
  }

  const int64_t num_positions = job.first_position + job.num_queries;
  for (int64_t first = 0; first < num_positions; first += kChunk) {
    const int64_t n = num_positions - first < kChunk ? num_positions - first : kChunk;
    Rows rows;
    FindRows(job, job.head, first, n, rows);
    alignas(64) float p[kChunk * kQueries];
    for (int64_t j = 0; j < n; j += kKeys) {
      ScoresOfQueries<kV, kKeys>(job.k_cache, rows.at + j, q, head_size, p + j * kQueries);
    }
    for (int64_t i = n * kQueries; i < kChunk * kQueries; ++i) p[i] = kMinusInfinity;
    for (int64_t j = job.first_position + 1 > first ? job.first_position + 1 - first : 0; j < n; ++j) {
      for (int64_t i = 0; i < kQueries && job.first_position + i < first + j; ++i) p[j * kQueries + i] = kMinusInfinity;
    }
    bool scaled = false;
    for (int u = 0; u < kV; ++u) {
      decay[u] = SoftmaxOfQueries<kV>(p + u * kLanes, largest[u], total[u]);
      scaled |= ReduceMax(Sub(Set(1.0f), decay[u])) != 0.0f;
    }

    int64_t d = 0;
    for (; d + kValues <= head_size; d += kValues) {
      AddValuesToQueries<kV, kValues>(job.v_cache, rows.at, d, n, p, scaled, decay, acc);
    }
    if constexpr (kD == 0) {  // the other head sizes have no rest
      for (; d < head_size; ++d) AddValuesToQueries<kV, 1>(job.v_cache, rows.at, d, n, p, scaled, decay, acc);
    }
  }

  for (int64_t d = 0; d < padded_head; d += kLanes) {
    for (int64_t u = 0; u < kV; ++u) {
      for (int64_t i = 0; i < kLanes; ++i) square[i] = Div(Load(acc + (d + i) * kQueries + u * kLanes), total[u]);
      Transpose(square);
      for (int64_t i = 0; i < kLanes && u * kLanes + i < job.num_queries; ++i) {
        StoreUpTo(job.out + (u * kLanes + i) * job.out_stride + d, head_size - d, square[i]);
      }
    }
  }
}

template <int kD>
void Attend(const AttentionJob& job, float* scratch) {
  if (job.num_queries < kFewestQueries) {
    for (int64_t i = 0; i < job.num_queries; ++i) AttendQuery<kD>(job, i, scratch);
    return;
  }
#if defined(__AVX512F__)
  if (job.num_queries > kLanes) return AttendQueries<kD, 2>(job, scratch);
  AttendQueries<kD, 1>(job, scratch);
#else
  for (int64_t i = 0; i < job.num_queries; i += kLanes) {
    AttentionJob part = job;
    part.q += i * job.q_stride;
    part.out += i * job.out_stride;
    part.first_position += i;
    part.num_queries = job.num_queries - i < kLanes ? job.num_queries - i : kLanes;
    AttendQueries<kD, 1>(part, scratch);
  }
#endif
}

}  // namespace

void AttendTile(const AttentionJob& job, std::byte* scratch) {
  float* floats = reinterpret_cast<float*>(scratch);
  if (job.head_size == 64) return Attend<64>(job, floats);
  if (job.head_size == 80) return Attend<80>(job, floats);
  if (job.head_size == 128) return Attend<128>(job, floats);
  Attend<0>(job, floats);
}

}  // namespace optserve::OPTSERVE_ISA
