#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace optserve {

// Who holds which block of the KV pool. Numbers only: the blocks themselves lie on the ranks.
//
// Invariant  used + free = all; a block is free exactly if nobody holds it.
class BlockManager {
 public:
  BlockManager(int32_t num_blocks, int32_t block_size);

  int32_t num_blocks() const { return static_cast<int32_t>(references_.size()); }
  int32_t block_size() const { return block_size_; }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t num_used() const { return num_blocks() - num_free(); }
  int32_t BlocksFor(int32_t num_tokens) const { return (num_tokens + block_size_ - 1) / block_size_; }

  // A block that nobody else holds. The caller has seen num_free() > 0.
  int32_t Allocate();
  // One more holder of a block that somebody holds.
  void Share(int32_t block);
  // One holder less; the last one frees it.
  void Release(int32_t block);
  bool IsShared(int32_t block) const { return references_[block] > 1; }

  // What is wrong if `tables` are all block tables there are; empty if nothing is. O(blocks); for tests and debug
  // builds.
  std::string Violation(std::span<const std::vector<int32_t>* const> tables) const;

 private:
  const int32_t block_size_;
  std::vector<int32_t> references_;  // [num_blocks] holders
  std::vector<int32_t> free_;        // the last freed is the next allocated: its memory is warm
};

}  // namespace optserve
