#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace optserve {

inline constexpr int64_t kTreeSumPiece = 1024;  // floats at a time, on the stack

// Elements [begin, begin + n) of the sum of `count` ranks from `first` on, n <= kTreeSumPiece, by the binary tree that
// Communicator::AllReduceSum promises: ((0 + 1) + (2 + 3)) + ... of_rank(r) is where rank r's numbers begin. Every
// communicator that sums on a CPU does it by this, so they all have the same bits.
template <typename OfRank>
void TreeSum(const OfRank& of_rank, int first, int count, int64_t begin, int64_t n, float* sum) {
  if (count == 1) {
    std::copy_n(of_rank(first) + begin, n, sum);
    return;
  }
  const int left = static_cast<int>(std::bit_ceil(static_cast<unsigned>(count))) / 2;
  TreeSum(of_rank, first, left, begin, n, sum);
  std::array<float, kTreeSumPiece> right;
  TreeSum(of_rank, first + left, count - left, begin, n, right.data());
  for (int64_t i = 0; i < n; ++i) sum[i] += right[i];
}

}  // namespace optserve
