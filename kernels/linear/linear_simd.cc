#include "kernels/linear/linear_simd.h"

// The one order in which an output is summed over K, and so its bits whatever T is:
//
//   lane l adds x[k] * w[k] for k = l, l + 16, l + 32, ... with one FMA each, starting from 0;
//   the 16 lanes are then added by ReduceAdd's tree; then bias, activation, and what was in `out`.
//
// A tile of R rows of x by C rows of W shares its loads: with 8 x 3, 11 loads feed 24 FMAs, and the units that widen
// f16 are not those that multiply. Tiles go over W like this:
//
//   for each group of W's rows that fits the L2 cache
//     for each block of 8 rows of x                     the first one brings the group in from memory
//       for each block of K                             8 rows of x stay in the L1 cache
//         for each tile of the group                    sums that are not finished wait in scratch
//
// Tried and dropped: widening each group into scratch first, so that tiles load f32. On Zen 5 no faster at 1024 rows
// than widening in every tile, and slower at 32, where the widening waits for memory and multiplies nothing. Asking for
// the next group while the last blocks of rows multiply this one, with groups of 128, 256 and 512 KiB: the same 24.7 to
// 25.4 ms for a step of 32 rows, so these tiles wait for their own units, not for memory.

namespace optserve::OPTSERVE_ISA {
namespace {

// Tiles as large as the accumulators that the registers hold: 32 of 512 bits, 16 of 256, 16 of 128.
#if defined(__AVX512F__)
constexpr int kTileRows = 8;
constexpr int64_t kGroupBytes = 512 << 10;  // half of the L2 cache
#elif defined(__AVX2__)
constexpr int kTileRows = 2;
constexpr int64_t kGroupBytes = 128 << 10;  // older processors have less
#else
constexpr int kTileRows = 1;
constexpr int64_t kGroupBytes = 128 << 10;
#endif

// Few rows leave registers for more columns, so that as many FMAs are independent of each other.
constexpr int TileColumns(int rows) { return kTileRows < 8 ? (rows == 1 ? 4 : 3) : rows == 1 ? 8 : rows <= 4 ? 6 : 3; }

constexpr int64_t kRowBlockFloats = 6144;  // rows of x times block of K: half of the L1 cache, more or less
constexpr int64_t kGroupColumns = 480;     // at most
constexpr int64_t kFirstLines = 128;       // of 64 bytes, prefetched before the first tile
constexpr int64_t kGroupUnit = 24;         // a group is a multiple of every tile's columns

constexpr int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// What one call needs of the scratch memory.
struct Scratch {
  F32x16 partial[kTileRows * kGroupColumns];      // sums of tiles between blocks of K
  float sums[kTileRows][kGroupColumns + kLanes];  // finished sums; a row ends with room for what Reduce spills
};

// Stops the compiler from folding a load into each of its uses: the FMAs of a tile would wait for the load ports.
OPTSERVE_SIMD_INLINE F32x16 InRegister(F32x16 a) {
#if defined(__AVX512F__)
  asm("" : "+v"(a));
#endif
  return a;
}

template <int R, int C>
struct Tile {
  F32x16 sum[R][C];
};

template <int R, int C>
OPTSERVE_SIMD_INLINE void Clear(Tile<R, C>& tile) {
#pragma GCC unroll 24
  for (int i = 0; i < R * C; ++i) tile.sum[i / C][i % C] = Zero();
}

template <int R, int C>
OPTSERVE_SIMD_INLINE void Save(const Tile<R, C>& tile, F32x16* to) {
#pragma GCC unroll 24
  for (int i = 0; i < R * C; ++i) to[i] = tile.sum[i / C][i % C];
}

template <int R, int C>
OPTSERVE_SIMD_INLINE void Restore(const F32x16* from, Tile<R, C>& tile) {
#pragma GCC unroll 24
  for (int i = 0; i < R * C; ++i) tile.sum[i / C][i % C] = from[i];
}

// Asks memory for a tile of W that is needed soon, 64 bytes at a time and row after row, as it lies there: tiles read
// several rows side by side, which the processor's own prefetchers follow too late.
struct Prefetcher {
  const char* at;
  int64_t row_bytes, skip;  // skip: from the end of a row to the start of the next
  const char* row_end;

  OPTSERVE_SIMD_INLINE void Line() {
    __builtin_prefetch(at);
    at += 64;
    if (at >= row_end) {
      at += skip;
      row_end = at + row_bytes;
    }
  }
};

template <typename T>
OPTSERVE_SIMD_INLINE Prefetcher MakePrefetcher(const T* w, int64_t w_stride, int64_t depth) {
  const char* at = reinterpret_cast<const char*>(w);
  const int64_t row_bytes = depth * static_cast<int64_t>(sizeof(T));
  return {at, row_bytes, (w_stride - depth) * static_cast<int64_t>(sizeof(T)), at + row_bytes};
}

// One step: the products of 16 elements of each row.
template <int R, int C, typename T>
OPTSERVE_SIMD_INLINE void Step(const float* x, int64_t x_stride, const T* w, int64_t w_stride, Tile<R, C>& tile) {
  F32x16 column[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) column[c] = InRegister(Load(w + c * w_stride));
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const F32x16 row = InRegister(Load(x + r * x_stride));
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) tile.sum[r][c] = Fma(row, column[c], tile.sum[r][c]);
  }
}

// Adds the products of `depth` elements to the tile. `soon` is a tile as large as this one.
template <bool kPrefetch, int R, int C, typename T>
OPTSERVE_SIMD_INLINE void Accumulate(const float* x, int64_t x_stride, const T* w, int64_t w_stride, int64_t depth,
                                     const T* soon, Tile<R, C>& tile) {
  constexpr int64_t kStepsPerLine = 64 / (kLanes * sizeof(T));
  const int64_t steps = depth / kLanes;
  Prefetcher prefetcher = MakePrefetcher(soon, w_stride, depth);
  int64_t i = 0;
  for (; i + kStepsPerLine <= steps; i += kStepsPerLine) {
    if constexpr (kPrefetch) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) prefetcher.Line();
    }
#pragma GCC unroll 2
    for (int64_t u = 0; u < kStepsPerLine; ++u) {
      Step(x + (i + u) * kLanes, x_stride, w + (i + u) * kLanes, w_stride, tile);
    }
  }
  for (; i < steps; ++i) Step(x + i * kLanes, x_stride, w + i * kLanes, w_stride, tile);
  if (const int64_t rest = depth % kLanes; rest > 0) {
    F32x16 column[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) column[c] = LoadFirst(w + c * w_stride + steps * kLanes, rest);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F32x16 row = LoadFirst(x + r * x_stride + steps * kLanes, rest);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) tile.sum[r][c] = Fma(row, column[c], tile.sum[r][c]);
    }
  }
}

// sums[r][c] = the sum of the lanes of tile.sum[r][c]. Writes up to 16 floats past sums[r][C]: tiles are finished from
// left to right, and the next one writes over them.
template <int R, int C>
OPTSERVE_SIMD_INLINE void Reduce(const Tile<R, C>& tile, float* sums, int64_t stride) {
  constexpr int kRows = R == 1 ? 1 : 4;  // of the sixteen sums per ReduceAdd16
  constexpr int kColumns = kLanes / kRows;
#pragma GCC unroll 2
  for (int row = 0; row < R; row += kRows) {
#pragma GCC unroll 2
    for (int column = 0; column < C; column += kColumns) {
      F32x16 a[kLanes];
#pragma GCC unroll 16
      for (int l = 0; l < kLanes; ++l) {
        const int r = row + l / kColumns, c = column + l % kColumns;
        a[l] = tile.sum[r < R ? r : R - 1][c < C ? c : C - 1];  // past the tile's edge: anything
      }
      float reduced[kLanes];
      Store(reduced, ReduceAdd16(a));
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        if (row + r < R)
          std::memcpy(sums + (row + r) * stride + column, reduced + r * kColumns, kColumns * sizeof(float));
      }
    }
  }
}

// Sixteen elements from p, or the first n < 16 of them.
template <typename T>
OPTSERVE_SIMD_INLINE F32x16 LoadUpTo(const T* p, int64_t n) {
  return n >= kLanes ? Load(p) : LoadFirst(p, n);
}

OPTSERVE_SIMD_INLINE F32x16 Bias(const LinearJob& job, int64_t column, int64_t n) {
  if (job.bias == nullptr) return Zero();
  if (job.bias_dtype == DType::kF32) return LoadUpTo(static_cast<const float*>(job.bias) + column, n);
  if (job.bias_dtype == DType::kF16) return LoadUpTo(static_cast<const F16*>(job.bias) + column, n);
  return LoadUpTo(static_cast<const BF16*>(job.bias) + column, n);
}

OPTSERVE_SIMD_INLINE F32x16 Activate(F32x16 x, Activation activation) {
  if (activation == Activation::kRelu) return Max(Zero(), x);  // keeps NaN
  if (activation == Activation::kGelu) {
    return Mul(Mul(Set(0.5f), x), Add(Set(1.0f), Erf(Mul(x, Set(0.70710678118654752f)))));
  }
  return x;
}

void WriteRow(const LinearJob& job, int64_t row, int64_t begin, int64_t columns, const float* sums) {
  float* out = job.out + row * job.out_stride + begin;
  for (int64_t c = 0; c < columns; c += kLanes) {
    const int64_t n = columns - c;
    F32x16 y = Activate(Add(Load(sums + c), Bias(job, begin + c, n)), job.activation);
    if (job.accumulate) y = Add(LoadUpTo(out + c, n), y);
    if (n >= kLanes) {
      Store(out + c, y);
    } else {
      StoreFirst(out + c, n, y);
    }
  }
}

// Columns of `out` that are computed together, and where the thread's share ends.
struct Group {
  int64_t begin, columns, end;
};

// R rows of x, from `row`, by a group.
template <bool kPrefetch, int R, typename T>
void RowBlock(const LinearJob& job, int64_t row, const Group& group, Scratch* scratch) {
  constexpr int C = TileColumns(R);
  constexpr int kTilesAhead = C > 4 ? 1 : 2;  // about 12 KiB
  constexpr int64_t kDepthBlock = kRowBlockFloats / R;
  const int64_t num_depth_blocks = (job.depth + kDepthBlock * 2 / 3 - 1) / kDepthBlock;  // at most a third over
  const int64_t depth_block =
      num_depth_blocks <= 1 ? job.depth : RoundUp((job.depth + num_depth_blocks - 1) / num_depth_blocks, 2 * kLanes);
  const float* x = job.x + row * job.x_stride;
  const int64_t stride = job.weight_stride;
  const T* weight = static_cast<const T*>(job.weight) + group.begin * stride;
  for (int64_t k = 0; k < job.depth; k += depth_block) {
    const int64_t depth = job.depth - k < depth_block ? job.depth - k : depth_block;
    const auto run_tile = [&]<int kColumns>(int64_t column) __attribute__((always_inline)) {
      Tile<R, kColumns> tile;
      F32x16* partial = scratch->partial + column * R;
      if (k == 0) {
        Clear(tile);
      } else {
        Restore(partial, tile);
      }
      // The group's next block of K follows its last tile, and the next group its last block.
      int64_t soon = column + kTilesAhead * kColumns, soon_k = k;
      if (soon >= group.columns && k + depth < job.depth) {
        soon -= group.columns;
        soon_k += depth;
      } else if (soon >= group.columns) {
        soon_k = 0;
        if (group.begin + soon >= group.end) soon = column;  // nothing more to do: what is here already costs nothing
      }
      Accumulate<kPrefetch>(x + k, job.x_stride, weight + column * stride + k, stride, depth,
                            weight + soon * stride + soon_k, tile);
      if (k + depth < job.depth) {
        Save(tile, partial);
      } else {
        Reduce(tile, &scratch->sums[0][column], kGroupColumns + kLanes);
      }
    };
    int64_t column = 0;
    for (; column + C <= group.columns; column += C) run_tile.template operator()<C>(column);
    for (; column < group.columns; ++column) run_tile.template operator()<1>(column);
  }
  for (int r = 0; r < R; ++r) WriteRow(job, row + r, group.begin, group.columns, scratch->sums[r]);
}

template <bool kPrefetch, typename T, int R = kTileRows>
OPTSERVE_SIMD_INLINE void AnyRowBlock(const LinearJob& job, int64_t row, const Group& group, Scratch* scratch) {
  if (job.num_rows - row >= R) return RowBlock<kPrefetch, R, T>(job, row, group, scratch);
  if constexpr (R > 1) AnyRowBlock<kPrefetch, T, R - 1>(job, row, group, scratch);
}

template <typename T>
void Columns(const LinearJob& job, int64_t begin, int64_t end, Scratch* scratch) {
  const int64_t fitting = kGroupBytes / (job.depth * static_cast<int64_t>(sizeof(T))) / kGroupUnit * kGroupUnit;
  const int64_t width = fitting < kGroupUnit ? kGroupUnit : fitting > kGroupColumns ? kGroupColumns : fitting;
  // Later tiles are asked for by earlier ones; the first have only this.
  const char* first = reinterpret_cast<const char*>(static_cast<const T*>(job.weight) + begin * job.weight_stride);
  for (int64_t line = 0; line < kFirstLines; ++line) __builtin_prefetch(first + line * 64);
  for (Group group{begin, width, end}; group.begin < end; group.begin += width) {
    if (end - group.begin < width) group.columns = end - group.begin;
    AnyRowBlock<true, T>(job, 0, group, scratch);
    for (int64_t row = kTileRows; row < job.num_rows; row += kTileRows) {
      AnyRowBlock<false, T>(job, row, group, scratch);
    }
  }
}

}  // namespace

void LinearColumns(const LinearJob& job, int64_t begin, int64_t end, std::byte* scratch_memory) {
  static_assert(sizeof(Scratch) <= kLinearScratchBytes);
  Scratch* scratch = reinterpret_cast<Scratch*>(scratch_memory);
  if (job.weight_dtype == DType::kF16) return Columns<F16>(job, begin, end, scratch);
  if (job.weight_dtype == DType::kBF16) return Columns<BF16>(job, begin, end, scratch);
  Columns<float>(job, begin, end, scratch);
}

}  // namespace optserve::OPTSERVE_ISA
