#pragma once

#include <cstdint>

namespace optserve {

// Sizes that come from a file. Every operation keeps note of overflow; value() may be asked only while ok().
class CheckedSize {
 public:
  constexpr CheckedSize(uint64_t value) : value_(value) {}  // NOLINT(google-explicit-constructor)

  constexpr bool ok() const { return ok_; }
  constexpr uint64_t value() const { return value_; }

  friend constexpr CheckedSize operator+(CheckedSize a, CheckedSize b) {
    CheckedSize sum(0);
    sum.ok_ = !__builtin_add_overflow(a.value_, b.value_, &sum.value_) && a.ok_ && b.ok_;
    return sum;
  }
  friend constexpr CheckedSize operator-(CheckedSize a, CheckedSize b) {
    CheckedSize difference(0);
    difference.ok_ = !__builtin_sub_overflow(a.value_, b.value_, &difference.value_) && a.ok_ && b.ok_;
    return difference;
  }
  friend constexpr CheckedSize operator*(CheckedSize a, CheckedSize b) {
    CheckedSize product(0);
    product.ok_ = !__builtin_mul_overflow(a.value_, b.value_, &product.value_) && a.ok_ && b.ok_;
    return product;
  }

  // Comparisons with something that overflowed are false.
  friend constexpr bool operator==(CheckedSize a, CheckedSize b) { return a.ok_ && b.ok_ && a.value_ == b.value_; }
  friend constexpr bool operator<=(CheckedSize a, CheckedSize b) { return a.ok_ && b.ok_ && a.value_ <= b.value_; }

 private:
  uint64_t value_;
  bool ok_ = true;
};

}  // namespace optserve
