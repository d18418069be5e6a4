#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "engine/executor/step_inputs.h"
#include "engine/scheduler/step_plan.h"
#include "kernels/backend.h"

namespace optserve {

// The batches that graphs are captured for, the smallest first: 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, ..., `largest`. A
// step takes the next larger one, so that a third of its rows at most belong to nobody beyond 16 rows. None for 0.
std::vector<int64_t> GraphBatches(int64_t largest);

// One rank's captured decode steps: from the inputs' ids to what is drawn, one graph for each size of batch.
class DecodeGraphs {
 public:
  struct Entry {
    FixedShape shape;
    std::unique_ptr<OpGraph> graph;
  };

  // In the order of GraphBatches.
  void Add(const FixedShape& shape, std::unique_ptr<OpGraph> graph) { entries_.push_back({shape, std::move(graph)}); }

  // The smallest graph that computes this plan; nullptr if none does: it must only decode, drawing a token from every
  // row, in a batch and in contexts no larger than planned.
  const Entry* Find(const StepPlan& plan) const;

  const std::vector<Entry>& entries() const { return entries_; }

 private:
  std::vector<Entry> entries_;
};

}  // namespace optserve
