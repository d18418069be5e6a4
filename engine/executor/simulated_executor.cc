#include "engine/executor/simulated_executor.h"

#include <algorithm>
#include <utility>

#include "engine/executor/step_work.h"
#include "engine/util/mix.h"
#include "engine/util/status.h"

namespace optserve {

SimulatedExecutor::SimulatedExecutor(CostModel model, const Options& options, VirtualClock* clock)
    : model_(std::move(model)), options_(options), clock_(clock) {}

absl::StatusOr<StartResult> SimulatedExecutor::Start(const LoadProgress& progress) {
  const OptConfig& config = model_.options().model;
  const int64_t kv_tokens = model_.KvTokens();
  const int64_t num_blocks = options_.num_blocks > 0 ? options_.num_blocks : kv_tokens / options_.block_size;
  if (num_blocks < 1) {
    return ResourceExhausted("the weights take {:.1f} GB of each device of {}, more than there is",
                             model_.WeightBytes() / 1e9, model_.options().node.name);
  }
  if (progress != nullptr) progress(1, 1);
  return StartResult{
      .kv = {.num_blocks = static_cast<int32_t>(num_blocks), .block_size = options_.block_size},
      .model = {.vocab_size = config.vocab_size,
                .max_model_len = config.max_positions,
                .eos_token_ids = config.eos_token_ids,
                .max_num_seqs = options_.max_num_seqs,
                .kv_tokens = num_blocks * options_.block_size,
                .weight_bytes = static_cast<int64_t>(model_.WeightBytes()) * model_.options().tensor_parallel_size}};
}

absl::StatusOr<StepResult> SimulatedExecutor::Execute(const StepPlan& plan) {
  Submit(plan);
  return Collect();
}

void SimulatedExecutor::Submit(const StepPlan& plan) {
  const auto step_ns = static_cast<int64_t>(model_.Step(WorkOf(plan)).total() * 1e9);
  device_free_ns_ = std::max(device_free_ns_, clock_->now_ns()) + step_ns;
  steps_.push_back({.end_ns = device_free_ns_, .result = ResultOf(plan)});
}

absl::StatusOr<StepResult> SimulatedExecutor::Collect() {
  clock_->AdvanceTo(steps_.front().end_ns);
  StepResult result = std::move(steps_.front().result);
  steps_.pop_front();
  return result;
}

StepResult SimulatedExecutor::ResultOf(const StepPlan& plan) const {
  StepResult result{.step = plan.step};
  // Ids below 3 are special tokens.
  const auto num_ids = static_cast<uint64_t>(model_.options().model.vocab_size) - 3;
  for (int32_t i = 0; i < std::ssize(plan.slices); ++i) {
    const SequenceSlice& slice = plan.slices[i];
    if (!slice.score_targets.empty()) {
      ScoredPrompt& scored = result.scored.emplace_back(ScoredPrompt{.slice = i});
      for (const int32_t target : slice.score_targets) scored.tokens.push_back({.id = target, .logprob = -1.0f});
    }
    if (!slice.wants_sample) continue;
    const uint64_t hash =
        Mix(Mix(slice.sampling.seed, static_cast<uint64_t>(slice.choice)), static_cast<uint64_t>(slice.context_len()));
    result.sampled.push_back({.slice = i, .token = {.id = static_cast<int32_t>(hash % num_ids) + 3, .logprob = -1.0f}});
  }
  return result;
}

}  // namespace optserve
