#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/util/step_account.h"

namespace optserve {

// One step of an engine as it was.
struct StepRecord {
  uint64_t step = 0;
  int32_t replica = 0;   // of several engines, whose
  int64_t begin_ns = 0;  // monotonic clock; the phases fill the time from here to its end
  int32_t num_tokens = 0;
  int32_t num_sequences = 0;
  StepTimes times;
  StepDemand demand;
};

// How many of the last steps an engine can tell of.
inline constexpr size_t kNumStepRecords = 1024;

// The last steps of an engine, in the order of their numbers. Memory is taken once. No lock of its own.
class StepRing {
 public:
  explicit StepRing(size_t capacity = kNumStepRecords) : records_(capacity) {}

  void Add(const StepRecord& record) { records_[num_added_++ % records_.size()] = record; }

  // Those with a number above `after`, oldest first.
  std::vector<StepRecord> Since(uint64_t after) const {
    std::vector<StepRecord> since;
    const uint64_t oldest = num_added_ - std::min<uint64_t>(num_added_, records_.size());
    for (uint64_t i = oldest; i < num_added_; ++i) {
      const StepRecord& record = records_[i % records_.size()];
      if (record.step > after) since.push_back(record);
    }
    return since;
  }

 private:
  std::vector<StepRecord> records_;
  uint64_t num_added_ = 0;
};

}  // namespace optserve
