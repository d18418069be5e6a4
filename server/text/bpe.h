#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace optserve {

// The merges of a byte-pair encoding: which two neighbouring tokens become one, and which pair goes first.
// A flat hash table with linear probing; built once, then read by any thread.
class MergeTable {
 public:
  static constexpr uint32_t kNoRank = UINT32_MAX;

  struct Merge {
    uint32_t rank = kNoRank;  // lower goes first; kNoRank: this pair does not merge
    int32_t result = -1;      // the token it becomes
  };

  explicit MergeTable(size_t max_merges);

  // False when the pair is there already. At most `max_merges` pairs.
  bool Insert(int32_t left, int32_t right, Merge merge);

  Merge Find(int32_t left, int32_t right) const {
    const uint64_t key = Key(left, right);
    for (size_t slot = Hash(key);; slot = (slot + 1) & mask_) {
      if (slots_[slot].key == key) return slots_[slot].merge;
      if (slots_[slot].key == kEmpty) return {};
    }
  }

 private:
  static constexpr uint64_t kEmpty = UINT64_MAX;  // ids are not negative, so no pair has this key

  struct Slot {
    uint64_t key = kEmpty;
    Merge merge;
  };

  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t Hash(uint64_t key) const { return (key * 0x9E3779B97F4A7C15u) >> shift_; }  // Fibonacci hashing

  int shift_ = 0;
  size_t mask_ = 0;
  std::vector<Slot> slots_;  // a power of two, at most half full
};

// Merges `tokens` (the bytes of one word) until no neighbours merge, and appends what is left to `ids`. Each step joins
// the pair of lowest rank, the leftmost of equals.
//
// Time    n log n for a word of n bytes, 16 n bytes of memory and a heap; words up to 32 bytes by plain scans.
// Source  Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", algorithm 1.
void ApplyMerges(const MergeTable& merges, std::span<const int32_t> tokens, std::vector<int32_t>& ids);

}  // namespace optserve
