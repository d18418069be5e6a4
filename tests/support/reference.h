#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/common/half.h"
#include "kernels/common/tensor.h"
#include "kernels/linear/linear.h"

// One naive f64 loop per op, obviously right and never optimised. Every backend answers to it.

namespace optserve::reference {

// Element [row, column] of a matrix, or element [row] of a vector, in f64.
inline double At(const TensorView& view, int64_t row, int64_t column = 0) {
  const int64_t i = row * view.row_stride + column;
  if (view.dtype == DType::kI32) return view.as<const int32_t>()[i];
  if (view.dtype == DType::kF16) return ToF32(view.as<const F16>()[i]);
  if (view.dtype == DType::kBF16) return ToF32(view.as<const BF16>()[i]);
  return view.as<const float>()[i];
}

inline double Activate(double x, Activation activation) {
  if (activation == Activation::kRelu) return x < 0.0 ? 0.0 : x;
  if (activation == Activation::kGelu) return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
  return x;
}

// [T, N] of each part, as `out` should be afterwards. Call it before the op: accumulate reads out.
inline std::vector<std::vector<double>> Linear(const LinearParams& p) {
  std::vector<std::vector<double>> results;
  for (int i = 0; i < p.num_parts; ++i) {
    const LinearPart& part = p.parts[i];
    std::vector<double>& result = results.emplace_back();
    for (int64_t t = 0; t < p.x.dims[0]; ++t) {
      for (int64_t n = 0; n < part.weight.dims[0]; ++n) {
        double sum = part.bias.empty() ? 0.0 : At(part.bias, n);
        for (int64_t k = 0; k < p.x.dims[1]; ++k) sum += At(p.x, t, k) * At(part.weight, n, k);
        result.push_back(Activate(sum, p.activation) + (p.accumulate ? At(part.out, t, n) : 0.0));
      }
    }
  }
  return results;
}

}  // namespace optserve::reference
