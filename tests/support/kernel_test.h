#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/common/cpu_context.h"
#include "kernels/common/half.h"
#include "kernels/common/tensor.h"

// What tests of CPU kernels share: every instruction set that the machine has, and tensors of random numbers.

namespace optserve {

inline std::vector<CpuIsa> SupportedIsas() {
  std::vector<CpuIsa> isas;
  for (int isa = 0; isa <= static_cast<int>(DetectCpuIsa()); ++isa) isas.push_back(static_cast<CpuIsa>(isa));
  return isas;
}

inline std::string IsaName(CpuIsa isa) {
  return isa == CpuIsa::kAvx512 ? "avx512" : isa == CpuIsa::kAvx2 ? "avx2" : "portable";
}

inline CpuContext MakeContext(CpuIsa isa, int num_threads = 2) {
  DeviceInfo info = DetectCpu(num_threads);
  info.isa = isa;
  return CpuContext(info);
}

// Memory and a view of it: [rows, columns] of dtype, `padding` unused elements behind each row, starting `misalign`
// bytes off. The memory ends with the last element, so that AddressSanitizer sees a read past it.
class TestTensor {
 public:
  TestTensor(DType dtype, int64_t rows, int64_t columns, int64_t padding = 0, size_t misalign = 0)
      : memory_((static_cast<size_t>((rows - 1) * (columns + padding) + columns)) * SizeOf(dtype) + misalign) {
    view_ = MakeView(memory_.data() + misalign, dtype, rows, columns);
    view_.row_stride = columns + padding;
  }

  // Moving keeps the memory where it is, so the view stays right; a copy's would not be.
  TestTensor(TestTensor&&) = default;
  TestTensor(const TestTensor&) = delete;

  // Normally distributed; padding included, so that reading it shows.
  TestTensor Randomize(uint32_t seed, float scale = 1.0f) && {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, scale);
    const size_t count = (view_.dims[0] - 1) * view_.row_stride + view_.dims[1];
    for (size_t i = 0; i < count; ++i) Set(i, normal(random));
    return std::move(*this);
  }

  // Element i of the memory, rounded to the dtype by cutting.
  void Set(size_t i, float value) {
    std::byte* at = static_cast<std::byte*>(view_.data) + i * SizeOf(view_.dtype);
    if (view_.dtype == DType::kF32) std::memcpy(at, &value, 4);
    if (view_.dtype == DType::kBF16) {
      const auto bits = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
      std::memcpy(at, &bits, 2);
    }
    if (view_.dtype == DType::kF16) {
      const auto cut = static_cast<uint16_t>(CutToF16(value));
      std::memcpy(at, &cut, 2);
    }
  }

  const TensorView& view() const { return view_; }
  TensorView vector() const { return MakeView(view_.data, view_.dtype, view_.dims[1]); }  // of a tensor of one row
  float* f32() const { return view_.as<float>(); }
  const std::vector<std::byte>& memory() const { return memory_; }

 private:
  // Normal numbers only: what is too small becomes 0, which no test minds.
  static uint32_t CutToF16(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const int exponent = static_cast<int>((bits >> 23) & 255) - 112;
    if (exponent <= 0 || exponent >= 31) return (bits >> 16) & 0x8000u;
    return ((bits >> 16) & 0x8000u) | static_cast<uint32_t>(exponent << 10) | ((bits >> 13) & 0x3ffu);
  }

  std::vector<std::byte> memory_;
  TensorView view_;
};

// A vector of i32 as a view.
inline TensorView ViewOf(std::vector<int32_t>& ids) {
  return MakeView(ids.data(), DType::kI32, static_cast<int64_t>(ids.size()));
}

}  // namespace optserve
