#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

// Plain views of numbers in one backend's memory. Safe to include from .cu files.

namespace optserve {

enum class DType : uint8_t { kF32, kF16, kBF16, kI32 };

constexpr size_t SizeOf(DType dtype) { return dtype == DType::kF32 || dtype == DType::kI32 ? 4 : 2; }

// A borrowed, typed view of up to four dimensions; never owns, cheap to copy.
//
// Everything but the first dimension is contiguous. `row_stride` is the distance in elements between neighbours along
// dims[0]: larger than the product of the other dims for a column slice of a matrix (a row-parallel weight shard).
// `data` of a weight may point into a mapped file: it is then read-only and only as aligned as the file stores it,
// so kernels load weights with unaligned loads.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int32_t rank = 0;
  std::array<int64_t, 4> dims{};
  int64_t row_stride = 0;

  bool empty() const { return data == nullptr; }

  // Elements in one index of dims[0].
  int64_t row_size() const {
    int64_t size = 1;
    for (int i = 1; i < rank; ++i) size *= dims[i];
    return size;
  }
  int64_t num_elements() const { return rank == 0 ? 0 : dims[0] * row_size(); }
  size_t num_bytes() const { return static_cast<size_t>(num_elements()) * SizeOf(dtype); }
  bool is_contiguous() const { return row_stride == row_size(); }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }

  // Rows [begin, begin + count) of dims[0].
  TensorView Rows(int64_t begin, int64_t count) const {
    TensorView view = *this;
    view.data = static_cast<std::byte*>(data) + begin * row_stride * static_cast<int64_t>(SizeOf(dtype));
    view.dims[0] = count;
    return view;
  }

  // Columns [begin, begin + count) of a matrix (rank 2).
  TensorView Columns(int64_t begin, int64_t count) const {
    TensorView view = *this;
    view.data = static_cast<std::byte*>(data) + begin * static_cast<int64_t>(SizeOf(dtype));
    view.dims[1] = count;
    return view;
  }
};

// A contiguous view.
inline TensorView MakeView(void* data, DType dtype, int64_t d0) { return {data, dtype, 1, {d0, 0, 0, 0}, 1}; }
inline TensorView MakeView(void* data, DType dtype, int64_t d0, int64_t d1) {
  return {data, dtype, 2, {d0, d1, 0, 0}, d1};
}
inline TensorView MakeView(void* data, DType dtype, int64_t d0, int64_t d1, int64_t d2) {
  return {data, dtype, 3, {d0, d1, d2, 0}, d1 * d2};
}
inline TensorView MakeView(void* data, DType dtype, int64_t d0, int64_t d1, int64_t d2, int64_t d3) {
  return {data, dtype, 4, {d0, d1, d2, d3}, d1 * d2 * d3};
}

}  // namespace optserve
