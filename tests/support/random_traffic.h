#pragma once

#include <cstdint>
#include <memory>

#include "engine/config.h"
#include "engine/executor/executor.h"

namespace optserve {

// Whatever else goes on, a request's tokens and log probabilities are those that it gets alone: the real scheduler, a
// real model, and random traffic with every way of being disturbed.

// A model and its KV pool, which schedulers use one after the other.
class TrafficModel {
 public:
  // Starts it; throws if it cannot.
  explicit TrafficModel(const EngineConfig& config);

  Executor& executor() { return *executor_; }
  const ModelInfo& info() const { return start_.model; }
  const KvBudget& kv() const { return start_.kv; }
  int32_t max_steps_in_flight() const { return start_.max_steps_in_flight; }

 private:
  std::unique_ptr<Executor> executor_;
  StartResult start_;
};

struct Disturbances {
  uint64_t preemptions = 0;
  uint64_t cache_hits = 0;
};

// Runs so many requests at once on `model`, then each of them alone on `alone`, and compares (gtest). The pool is
// small, and so are the steps: `seed` says how small, and what the requests are. Log probabilities may differ by
// `tolerance`, which is for GPUs: what computes a token again after a preemption is another kernel than decoded it.
Disturbances RunTraffic(TrafficModel& model, TrafficModel& alone, uint64_t seed, int num_requests,
                        float tolerance = 0.0f);

}  // namespace optserve
