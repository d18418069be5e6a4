#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/scheduler/prefix_hash.h"

namespace optserve {

// Who holds which block of the KV pool, and what the blocks that nobody holds are still good for. Numbers only: the
// blocks themselves lie on the ranks. Allocates nothing after construction.
//
// Invariant  free + used + cached = all. A block is used as long as somebody holds it; after that it is cached if its
//            contents are registered, else free.
class BlockManager {
 public:
  BlockManager(int32_t num_blocks, int32_t block_size);

  int32_t num_blocks() const { return static_cast<int32_t>(blocks_.size()); }
  int32_t block_size() const { return block_size_; }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t num_cached() const { return num_cached_; }
  int32_t num_used() const { return num_blocks() - num_free() - num_cached_; }
  int32_t num_available() const { return num_free() + num_cached_; }  // to Allocate
  int32_t BlocksFor(int32_t num_tokens) const { return (num_tokens + block_size_ - 1) / block_size_; }

  // A block that nobody else holds: a free one, else the cached one that has not been used for longest. The caller has
  // seen num_available() > 0.
  int32_t Allocate();
  // One more holder of a block that is used or cached.
  void Hold(int32_t block);
  // One holder less; after the last one the block is cached or free.
  void Release(int32_t block);
  bool IsUsed(int32_t block) const { return blocks_[block].references > 0; }
  bool IsShared(int32_t block) const { return blocks_[block].references > 1; }

  // The block is full and its contents will not change: Find finds it from now on, unless another block already has
  // these contents.
  void Register(int32_t block, const PrefixHash& hash);
  // A used or cached block with these contents; kNone: there is none.
  int32_t Find(const PrefixHash& hash) const { return table_[PlaceOf(hash)]; }
  // The contents of a used block are not to be found again.
  void Forget(int32_t block);
  // Forget, and whoever allocates the block next must have it zeroed first: there is NaN or Inf in it, and what attends
  // with weight zero to NaN gets NaN.
  void Taint(int32_t block);
  // Of a block just allocated: was it tainted? It is not any more.
  bool TakeTaint(int32_t block) { return std::exchange(blocks_[block].is_tainted, false); }

  static constexpr int32_t kNone = -1;

  // What is wrong if `tables` are all block tables there are; empty if nothing is. O(blocks); for tests and debug
  // builds.
  std::string Violation(std::span<const std::vector<int32_t>* const> tables) const;

 private:
  struct Block {
    int32_t references = 0;
    bool is_registered = false;
    bool is_tainted = false;
    int32_t previous = kNone;  // in the list of cached blocks
    int32_t next = kNone;
    PrefixHash hash;
  };

  // Where in table_ this hash is, or would be.
  size_t PlaceOf(const PrefixHash& hash) const;
  void Unlink(int32_t block);

  const int32_t block_size_;
  std::vector<Block> blocks_;
  std::vector<int32_t> free_;  // the last freed is the next allocated
  // Cached blocks, the longest unused first.
  int32_t first_cached_ = kNone;
  int32_t last_cached_ = kNone;
  int32_t num_cached_ = 0;
  // Registered blocks by hash: open addressing with linear probing, at most half full; kNone is empty.
  std::vector<int32_t> table_;
};

}  // namespace optserve
