#include "engine/executor/decode_graphs.h"

#include <algorithm>

namespace optserve {

std::vector<int64_t> GraphBatches(int64_t largest) {
  std::vector<int64_t> batches;
  for (int64_t batch = 1; batch < largest; batch *= 2) {
    batches.push_back(batch);
    if (batch >= 16 && batch + batch / 2 < largest) batches.push_back(batch + batch / 2);
  }
  if (largest > 0) batches.push_back(largest);
  return batches;
}

const DecodeGraphs::Entry* DecodeGraphs::Find(const StepPlan& plan) const {
  const auto rows = static_cast<int64_t>(plan.slices.size());
  if (plan.num_decode != rows || entries_.empty()) return nullptr;
  const auto entry = std::ranges::find_if(entries_, [&](const Entry& e) { return e.shape.rows >= rows; });
  if (entry == entries_.end()) return nullptr;
  const bool fits = std::ranges::all_of(plan.slices, [&](const SequenceSlice& slice) {
    return slice.wants_sample && slice.score_targets.empty() &&
           static_cast<int64_t>(slice.block_table.size()) <= entry->shape.blocks;
  });
  return fits ? &*entry : nullptr;
}

}  // namespace optserve
