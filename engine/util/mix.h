#pragma once

#include <cstdint>

namespace optserve {

// A hash of a sequence of numbers, one at a time: state = Mix(state, value). No defence against somebody who picks the
// numbers.
// Source  splitmix64: Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators".
constexpr uint64_t Mix(uint64_t state, uint64_t value) {
  uint64_t z = state + value * 0x9E3779B97F4A7C15ULL + 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

}  // namespace optserve
