#include "kernels/embedding/embedding_simd.h"

namespace optserve::OPTSERVE_ISA {
namespace {

template <typename T>
void Widen(float* out, const T* row, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Load(row + i));
  if (i < n) StoreFirst(out + i, n - i, LoadFirst(row + i, n - i));
}

template <typename T>
void AddWide(float* x, const T* row, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(x + i, Add(Load(x + i), Load(row + i)));
  if (i < n) StoreFirst(x + i, n - i, Add(LoadFirst(x + i, n - i), LoadFirst(row + i, n - i)));
}

}  // namespace

void WidenRow(float* out, const void* row, DType dtype, int64_t n) {
  if (dtype == DType::kF16) return Widen(out, static_cast<const F16*>(row), n);
  if (dtype == DType::kBF16) return Widen(out, static_cast<const BF16*>(row), n);
  Widen(out, static_cast<const float*>(row), n);
}

void AddWideRow(float* x, const void* row, DType dtype, int64_t n) {
  if (dtype == DType::kF16) return AddWide(x, static_cast<const F16*>(row), n);
  if (dtype == DType::kBF16) return AddWide(x, static_cast<const BF16*>(row), n);
  AddWide(x, static_cast<const float*>(row), n);
}

}  // namespace optserve::OPTSERVE_ISA
