#include "engine/scheduler/block_manager.h"

#include <fmt/format.h>

#include <bit>

#include "kernels/common/check.h"

namespace optserve {

BlockManager::BlockManager(int32_t num_blocks, int32_t block_size) : block_size_(block_size) {
  OPTSERVE_CHECK(num_blocks > 0 && block_size > 0) << num_blocks << " blocks of " << block_size << " tokens";
  blocks_.resize(num_blocks);
  free_.reserve(num_blocks);
  for (int32_t block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
  table_.assign(std::bit_ceil(2 * static_cast<size_t>(num_blocks)), kNone);
}

int32_t BlockManager::Allocate() {
  int32_t block = kNone;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else {
    OPTSERVE_CHECK(first_cached_ != kNone);
    block = first_cached_;
    Unlink(block);
    Forget(block);
  }
  blocks_[block].references = 1;
  return block;
}

void BlockManager::Hold(int32_t block) {
  OPTSERVE_CHECK(blocks_[block].references > 0 || blocks_[block].is_registered) << "block " << block;
  if (blocks_[block].references++ == 0) Unlink(block);
}

void BlockManager::Release(int32_t block) {
  Block& released = blocks_[block];
  OPTSERVE_CHECK(released.references > 0) << "block " << block;
  if (--released.references > 0) return;
  if (!released.is_registered) {
    free_.push_back(block);
    return;
  }
  released.previous = last_cached_;
  released.next = kNone;
  (last_cached_ == kNone ? first_cached_ : blocks_[last_cached_].next) = block;
  last_cached_ = block;
  ++num_cached_;
}

void BlockManager::Unlink(int32_t block) {
  const Block& cached = blocks_[block];
  (cached.previous == kNone ? first_cached_ : blocks_[cached.previous].next) = cached.next;
  (cached.next == kNone ? last_cached_ : blocks_[cached.next].previous) = cached.previous;
  --num_cached_;
}

size_t BlockManager::PlaceOf(const PrefixHash& hash) const {
  const size_t mask = table_.size() - 1;
  size_t place = hash.low & mask;
  while (table_[place] != kNone && blocks_[table_[place]].hash != hash) place = (place + 1) & mask;
  return place;
}

void BlockManager::Register(int32_t block, const PrefixHash& hash) {
  OPTSERVE_CHECK(IsUsed(block) && !blocks_[block].is_registered) << "block " << block;
  const size_t place = PlaceOf(hash);
  if (table_[place] != kNone) return;
  table_[place] = block;
  blocks_[block].hash = hash;
  blocks_[block].is_registered = true;
}

void BlockManager::Forget(int32_t block) {
  if (!blocks_[block].is_registered) return;
  blocks_[block].is_registered = false;
  const size_t mask = table_.size() - 1;
  size_t hole = PlaceOf(blocks_[block].hash);
  table_[hole] = kNone;
  // What was pushed past the hole moves into it (Knuth, The Art of Computer Programming vol. 3, 6.4, algorithm R).
  for (size_t place = (hole + 1) & mask; table_[place] != kNone; place = (place + 1) & mask) {
    const size_t home = blocks_[table_[place]].hash.low & mask;
    if (((place - home) & mask) < ((place - hole) & mask)) continue;
    table_[hole] = table_[place];
    table_[place] = kNone;
    hole = place;
  }
}

void BlockManager::Taint(int32_t block) {
  Forget(block);
  blocks_[block].is_tainted = true;
}

std::string BlockManager::Violation(std::span<const std::vector<int32_t>* const> tables) const {
  std::vector<int32_t> holders(blocks_.size());
  std::vector<size_t> seen_in(blocks_.size(), tables.size());
  for (size_t i = 0; i < tables.size(); ++i) {
    for (const int32_t block : *tables[i]) {
      if (seen_in[block] == i) return fmt::format("block {} stands twice in one table", block);
      seen_in[block] = i;
      ++holders[block];
    }
  }
  std::vector<int32_t> places(blocks_.size());  // in how many lists of unused blocks
  for (const int32_t block : free_) {
    ++places[block];
    if (blocks_[block].is_registered) return fmt::format("block {} is free, but registered", block);
  }
  int32_t num_cached = 0;
  for (int32_t block = first_cached_; block != kNone; block = blocks_[block].next) {
    ++places[block];
    if (++num_cached > num_cached_) return fmt::format("more than {} blocks are cached", num_cached_);
    if (!blocks_[block].is_registered) return fmt::format("block {} is cached, but not registered", block);
  }
  if (num_cached != num_cached_) return fmt::format("{} blocks are cached, not {}", num_cached, num_cached_);
  for (int32_t block = 0; block < num_blocks(); ++block) {
    if (holders[block] != blocks_[block].references) {
      return fmt::format("block {} is in {} tables, but has {} references", block, holders[block],
                         blocks_[block].references);
    }
    if (places[block] != (holders[block] == 0 ? 1 : 0)) {
      return fmt::format("block {} has {} holders and is in {} lists", block, holders[block], places[block]);
    }
    if (blocks_[block].is_registered && Find(blocks_[block].hash) != block) {
      return fmt::format("block {} is registered, but not found", block);
    }
  }
  return "";
}

}  // namespace optserve
