#include "kernels/linear/linear_simd.h"

// The one order in which every path below sums over K, and so the bits of an output whatever T is:
//
//   lane l adds x[k] * w[k] for k = l, l + 16, l + 32, ... with one FMA each, starting from 0;
//   the 16 lanes are then added by ReduceAdd's tree; then bias, activation, and what was in `out`.
//
// A tile of R rows of x by C rows of W shares its loads: one load feeds several FMAs. Up to kTileRows rows of x read W
// where it lies, once, widening in registers; decoding is then bound by memory. With more rows, a group of W's rows is
// widened once into scratch, in the order in which tiles read it, and all rows of x pass over it.

namespace optserve::OPTSERVE_ISA {
namespace {

// Tiles as large as the accumulators that the registers hold: 32 of 512 bits, 16 of 256, 16 of 128.
#if defined(__AVX512F__)
constexpr int kTileRows = 8;
constexpr int kTileColumns = 3;
#elif defined(__AVX2__)
constexpr int kTileRows = 2;
constexpr int kTileColumns = 3;
#else
constexpr int kTileRows = 1;
constexpr int kTileColumns = 3;
#endif

// Depth that a tile covers at a time, so that kTileRows rows of x stay in the L1 cache while W's group passes by.
constexpr int64_t kDepthBlock = 1024;

// Stops the compiler from folding a load into each of its uses: the FMAs of a tile would wait for the load ports.
OPTSERVE_SIMD_INLINE F32x16 InRegister(F32x16 a) {
#if defined(__AVX512F__)
  asm("" : "+v"(a));
#endif
  return a;
}

// Where a tile finds row c of its C rows of W at step i, which covers k = 16 i ... 16 i + 15.
template <typename T>
struct MappedRows {
  const T* data;
  int64_t stride;
  OPTSERVE_SIMD_INLINE F32x16 At(int64_t i, int c) const { return Load(data + c * stride + i * kLanes); }
  OPTSERVE_SIMD_INLINE F32x16 FirstAt(int64_t i, int c, int64_t n) const {
    return LoadFirst(data + c * stride + i * kLanes, n);
  }
};

struct PackedRows {
  const float* data;  // [steps, kTileColumns, 16], zeros past K
  OPTSERVE_SIMD_INLINE F32x16 At(int64_t i, int c) const { return Load(data + (i * kTileColumns + c) * kLanes); }
  OPTSERVE_SIMD_INLINE F32x16 FirstAt(int64_t i, int c, int64_t) const { return At(i, c); }
};

template <int R, int C>
struct Tile {
  F32x16 sum[R][C];
};

template <int R, int C>
OPTSERVE_SIMD_INLINE void Clear(Tile<R, C>& tile) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) tile.sum[r][c] = Zero();
  }
}

// Adds the products of `depth` elements to the tile.
template <int R, int C, typename Weights>
OPTSERVE_SIMD_INLINE void Accumulate(const float* x, int64_t x_stride, const Weights& w, int64_t depth,
                                     Tile<R, C>& tile) {
  const int64_t steps = depth / kLanes;
  for (int64_t i = 0; i < steps; ++i) {
    F32x16 column[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) column[c] = InRegister(w.At(i, c));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F32x16 row = InRegister(Load(x + r * x_stride + i * kLanes));
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) tile.sum[r][c] = Fma(row, column[c], tile.sum[r][c]);
    }
  }
  if (const int64_t rest = depth % kLanes; rest > 0) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F32x16 row = LoadFirst(x + r * x_stride + steps * kLanes, rest);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) tile.sum[r][c] = Fma(row, w.FirstAt(steps, c, rest), tile.sum[r][c]);
    }
  }
}

inline float Activate(float x, Activation activation) {
  if (activation == Activation::kRelu) return x < 0.0f ? 0.0f : x;  // keeps NaN
  if (activation == Activation::kGelu) return 0.5f * x * (1.0f + __builtin_erff(x * 0.70710678118654752f));
  return x;
}

inline float BiasAt(const LinearJob& job, int64_t column) {
  if (job.bias == nullptr) return 0.0f;
  if (job.bias_dtype == DType::kF32) return LoadOne(static_cast<const float*>(job.bias) + column);
  if (job.bias_dtype == DType::kF16) return LoadOne(static_cast<const F16*>(job.bias) + column);
  return LoadOne(static_cast<const BF16*>(job.bias) + column);
}

// Adds the lanes up and writes the first `columns` columns of the tile, whose corner is out[row, column].
template <int R, int C>
OPTSERVE_SIMD_INLINE void Finish(const LinearJob& job, const Tile<R, C>& tile, int64_t row, int64_t column,
                                 int columns) {
  float sums[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sums[r][c] = ReduceAdd(tile.sum[r][c]);
  }
  for (int c = 0; c < columns; ++c) {
    const float bias = BiasAt(job, column + c);
    for (int r = 0; r < R; ++r) {
      float* out = job.out + (row + r) * job.out_stride + column + c;
      const float y = Activate(sums[r][c] + bias, job.activation);
      *out = job.accumulate ? *out + y : y;
    }
  }
}

// ---------------------------------------------------------------- few rows: W read where it lies

template <int R, int C, typename T>
OPTSERVE_SIMD_INLINE void MappedTile(const LinearJob& job, int64_t column) {
  const MappedRows<T> w{static_cast<const T*>(job.weight) + column * job.weight_stride, job.weight_stride};
  Tile<R, C> tile;
  Clear(tile);
  Accumulate(job.x, job.x_stride, w, job.depth, tile);
  Finish(job, tile, 0, column, C);
}

// Few rows leave registers free for more columns, and so for more loads of W under way.
template <int R>
constexpr int MappedColumns() {
  return kTileRows == 8 ? (R == 1 ? 8 : R <= 4 ? 6 : kTileColumns) : (R == 1 ? 4 : kTileColumns);
}

template <int R, typename T>
void MappedRange(const LinearJob& job, int64_t begin, int64_t end) {
  constexpr int kColumns = MappedColumns<R>();
  int64_t column = begin;
  for (; column + kColumns <= end; column += kColumns) MappedTile<R, kColumns, T>(job, column);
  for (; column < end; ++column) MappedTile<R, 1, T>(job, column);
}

// ---------------------------------------------------------------- many rows: W widened once per group

// Columns [begin, begin + columns) of W, as tiles of [steps, kTileColumns, 16]. Missing columns are 0.
template <typename T>
void Pack(const LinearJob& job, int64_t begin, int64_t columns, float* packed) {
  const int64_t steps = job.depth / kLanes;
  const int64_t rest = job.depth % kLanes;
  for (int64_t tile = 0; tile * kTileColumns < columns; ++tile) {
    for (int c = 0; c < kTileColumns; ++c) {
      const int64_t column = tile * kTileColumns + c;
      const T* w = static_cast<const T*>(job.weight) + (begin + column) * job.weight_stride;
      float* to = packed + c * kLanes;
      if (column < columns) {
        for (int64_t i = 0; i < steps; ++i) Store(to + i * kTileColumns * kLanes, Load(w + i * kLanes));
        if (rest > 0) Store(to + steps * kTileColumns * kLanes, LoadFirst(w + steps * kLanes, rest));
      } else {
        for (int64_t i = 0; i < steps + (rest > 0); ++i) Store(to + i * kTileColumns * kLanes, Zero());
      }
    }
    packed += (steps + (rest > 0)) * kTileColumns * kLanes;
  }
}

// R rows of x, from `row`, against a packed group. `partial` keeps the tiles between blocks of depth.
template <int R>
void PackedRowBlock(const LinearJob& job, int64_t row, int64_t begin, int64_t columns, const float* packed,
                    F32x16* partial) {
  const int64_t tile_floats = (job.depth + kLanes - 1) / kLanes * kLanes * kTileColumns;
  for (int64_t k = 0; k < job.depth; k += kDepthBlock) {
    const int64_t depth = job.depth - k < kDepthBlock ? job.depth - k : kDepthBlock;
    for (int64_t t = 0; t * kTileColumns < columns; ++t) {
      F32x16* kept = partial + t * kTileRows * kTileColumns;
      Tile<R, kTileColumns> tile;
      if (k == 0) {
        Clear(tile);
      } else {
#pragma GCC unroll 24
        for (int i = 0; i < R * kTileColumns; ++i) tile.sum[i / kTileColumns][i % kTileColumns] = kept[i];
      }
      const PackedRows w{packed + t * tile_floats + k * kTileColumns};
      Accumulate(job.x + row * job.x_stride + k, job.x_stride, w, depth, tile);
      if (k + depth < job.depth) {
#pragma GCC unroll 24
        for (int i = 0; i < R * kTileColumns; ++i) kept[i] = tile.sum[i / kTileColumns][i % kTileColumns];
      } else {
        const int64_t left = columns - t * kTileColumns;
        Finish(job, tile, row, begin + t * kTileColumns, left < kTileColumns ? static_cast<int>(left) : kTileColumns);
      }
    }
  }
}

// ---------------------------------------------------------------- which of the two, and how many rows in the last
// block

template <int R>
struct RowCount {
  static constexpr int value = R;
};

// Calls f(RowCount<rows>()) for 1 <= rows <= kTileRows.
template <int R = kTileRows, typename F>
OPTSERVE_SIMD_INLINE void WithRowCount(int64_t rows, const F& f) {
  if (rows == R) return f(RowCount<R>());
  if constexpr (R > 1) WithRowCount<R - 1>(rows, f);
}

template <typename T>
void Columns(const LinearJob& job, int64_t begin, int64_t end, std::byte* scratch, int64_t scratch_bytes) {
  if (job.num_rows <= kTileRows) {
    WithRowCount(job.num_rows, [&](auto rows) { MappedRange<decltype(rows)::value, T>(job, begin, end); });
    return;
  }
  // Scratch: the packed group, then the partial tiles.
  const int64_t steps = (job.depth + kLanes - 1) / kLanes;
  const int64_t tile_bytes = steps * kTileColumns * kLanes * static_cast<int64_t>(sizeof(float));
  const int64_t partial_bytes = kTileRows * kTileColumns * static_cast<int64_t>(sizeof(F32x16));
  const int64_t tiles = scratch_bytes / 2 / (tile_bytes + partial_bytes);
  if (tiles == 0) {  // deeper than scratch is wide: W from where it lies, tile rows at a time
    for (int64_t row = 0; row < job.num_rows; row += kTileRows) {
      LinearJob block = job;
      block.x += row * job.x_stride;
      block.out += row * job.out_stride;
      block.num_rows = job.num_rows - row < kTileRows ? job.num_rows - row : kTileRows;
      Columns<T>(block, begin, end, scratch, scratch_bytes);
    }
    return;
  }
  float* packed = reinterpret_cast<float*>(scratch);
  F32x16* partial = reinterpret_cast<F32x16*>(scratch + tiles * tile_bytes);
  for (int64_t column = begin; column < end; column += tiles * kTileColumns) {
    const int64_t columns = end - column < tiles * kTileColumns ? end - column : tiles * kTileColumns;
    Pack<T>(job, column, columns, packed);
    for (int64_t row = 0; row < job.num_rows; row += kTileRows) {
      WithRowCount(job.num_rows - row < kTileRows ? job.num_rows - row : kTileRows, [&](auto rows) {
        PackedRowBlock<decltype(rows)::value>(job, row, column, columns, packed, partial);
      });
    }
  }
}

}  // namespace

void LinearColumns(const LinearJob& job, int64_t begin, int64_t end, std::byte* scratch, int64_t scratch_bytes) {
  if (job.weight_dtype == DType::kF16) return Columns<F16>(job, begin, end, scratch, scratch_bytes);
  if (job.weight_dtype == DType::kBF16) return Columns<BF16>(job, begin, end, scratch, scratch_bytes);
  Columns<float>(job, begin, end, scratch, scratch_bytes);
}

}  // namespace optserve::OPTSERVE_ISA
