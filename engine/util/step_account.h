#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string_view>

// Where the time of an engine goes, and what its steps cannot do without.

namespace optserve {

// What a moment of a step is spent on. Every moment from the beginning of planning until the events are handed out is
// of exactly one phase, so that the phases sum to the step.
enum class StepPhase : uint8_t {
  kWeights,    // products with weights: reading them or, with many tokens, multiplying
  kAttention,  // reading the KV cache, and the products with it
  kAllReduce,  // adding up over ranks and gathering, waiting for them included
  kKernels,    // the small ones: norms, embeddings, residuals, writing the KV cache
  kSampling,   // drawing tokens and scoring prompts, and reading back what was drawn
  kGaps,       // launching kernels, and between them
  kDevice,     // waiting for a device that runs behind the calls: what its kernels take, not divided
  kHost,       // planning, the inputs of the step, bookkeeping, handing out events
};
inline constexpr size_t kNumStepPhases = 8;
inline constexpr std::array<std::string_view, kNumStepPhases> kStepPhaseNames = {
    "weights", "attention", "all_reduce", "kernels", "sampling", "gaps", "device", "host"};

struct StepTimes {
  std::array<int64_t, kNumStepPhases> ns = {};

  int64_t& operator[](StepPhase phase) { return ns[static_cast<size_t>(phase)]; }
  int64_t operator[](StepPhase phase) const { return ns[static_cast<size_t>(phase)]; }
  void Add(const StepTimes& other) {
    for (size_t i = 0; i < kNumStepPhases; ++i) ns[i] += other.ns[i];
  }
  int64_t total_ns() const { return std::accumulate(ns.begin(), ns.end(), int64_t{0}); }
};

// The least that all ranks together must read and multiply.
struct StepDemand {
  double weight_bytes = 0.0;
  double kv_bytes = 0.0;
  double weight_flops = 0.0;
  double attention_flops = 0.0;
};

// Sums over steps. Only grow.
struct StepAccount {
  uint64_t steps = 0;
  StepTimes times;
  StepDemand demand;

  // `weight` times the step: 1, or the number of sequences that wait for it.
  void Add(const StepTimes& step_times, const StepDemand& step_demand, int64_t weight) {
    ++steps;
    for (size_t i = 0; i < kNumStepPhases; ++i) times.ns[i] += weight * step_times.ns[i];
    AddDemand(step_demand, static_cast<double>(weight));
  }

  void Add(const StepAccount& other) {
    steps += other.steps;
    for (size_t i = 0; i < kNumStepPhases; ++i) times.ns[i] += other.times.ns[i];
    AddDemand(other.demand, 1.0);
  }

 private:
  void AddDemand(const StepDemand& more, double weight) {
    demand.weight_bytes += weight * more.weight_bytes;
    demand.kv_bytes += weight * more.kv_bytes;
    demand.weight_flops += weight * more.weight_flops;
    demand.attention_flops += weight * more.attention_flops;
  }
};

}  // namespace optserve
