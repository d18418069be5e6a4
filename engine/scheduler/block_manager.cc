#include "engine/scheduler/block_manager.h"

#include <fmt/format.h>

#include "kernels/common/check.h"

namespace optserve {

BlockManager::BlockManager(int32_t num_blocks, int32_t block_size) : block_size_(block_size) {
  OPTSERVE_CHECK(num_blocks > 0 && block_size > 0) << num_blocks << " blocks of " << block_size << " tokens";
  references_.resize(num_blocks);
  free_.reserve(num_blocks);
  for (int32_t block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
}

int32_t BlockManager::Allocate() {
  OPTSERVE_CHECK(!free_.empty());
  const int32_t block = free_.back();
  free_.pop_back();
  references_[block] = 1;
  return block;
}

void BlockManager::Share(int32_t block) {
  OPTSERVE_CHECK(references_[block] > 0) << "block " << block;
  ++references_[block];
}

void BlockManager::Release(int32_t block) {
  OPTSERVE_CHECK(references_[block] > 0) << "block " << block;
  if (--references_[block] == 0) free_.push_back(block);
}

std::string BlockManager::Violation(std::span<const std::vector<int32_t>* const> tables) const {
  std::vector<int32_t> holders(references_.size());
  std::vector<size_t> seen_in(references_.size(), tables.size());
  for (size_t i = 0; i < tables.size(); ++i) {
    for (const int32_t block : *tables[i]) {
      if (seen_in[block] == i) return fmt::format("block {} stands twice in one table", block);
      seen_in[block] = i;
      ++holders[block];
    }
  }
  for (size_t block = 0; block < holders.size(); ++block) {
    if (holders[block] != references_[block]) {
      return fmt::format("block {} is in {} tables, but has {} references", block, holders[block], references_[block]);
    }
  }
  std::vector<bool> is_free(references_.size());
  for (const int32_t block : free_) {
    if (is_free[block]) return fmt::format("block {} is free twice", block);
    if (references_[block] != 0)
      return fmt::format("block {} is free and has {} references", block, references_[block]);
    is_free[block] = true;
  }
  for (size_t block = 0; block < holders.size(); ++block) {
    if (references_[block] == 0 && !is_free[block]) return fmt::format("block {} is lost", block);
  }
  return "";
}

}  // namespace optserve
