#include "engine/tools/bench_model.h"

#include <cstdint>
#include <memory>
#include <utility>

#include "engine/comm/communicator.h"
#include "engine/executor/rank_worker.h"
#include "engine/model/opt_config.h"
#include "engine/model/opt_weights.h"
#include "engine/scheduler/step_plan.h"
#include "engine/tools/random_checkpoint.h"
#include "engine/util/status_macros.h"
#include "kernels/backend.h"

namespace optserve {
namespace {

constexpr int32_t kBlockSize = 16;
constexpr int32_t kFirstContext = 64;  // tokens cached when decoding starts
constexpr int32_t kLastContext = 128;  // and when it starts again
constexpr int32_t kPromptTokens = 1024;
constexpr int32_t kMaxBatch = 32;

SequenceSlice MakeSlice(int32_t sequence, int32_t num_tokens, int32_t num_cached) {
  SequenceSlice slice{
      .sequence = static_cast<SequenceId>(sequence), .num_tokens = num_tokens, .num_cached = num_cached};
  slice.wants_sample = true;
  slice.sampling.temperature = 0.0;
  const int32_t num_blocks = (num_cached + num_tokens + kBlockSize - 1) / kBlockSize;
  for (int32_t i = 0; i < num_blocks; ++i) slice.block_table.push_back(sequence * (kLastContext / kBlockSize) + i);
  return slice;
}

StepPlan DecodePlan(int32_t batch, int32_t context) {
  StepPlan plan{.step = 1, .num_decode = batch};
  for (int32_t i = 0; i < batch; ++i) {
    plan.slices.push_back(MakeSlice(i, 1, context));
    plan.token_ids.push_back(100 + i);
  }
  return plan;
}

StepPlan PromptPlan() {
  StepPlan plan{.step = 1};
  plan.slices.push_back(MakeSlice(0, kPromptTokens, 0));
  for (int32_t i = 0; i < kPromptTokens; ++i) plan.token_ids.push_back(10 + i);
  return plan;
}

// What a step must do at least.
struct Work {
  double weight_bytes = 0;  // of all layers and the output embedding
  double flops = 0;         // multiply-adds of the products with weights, and of attention
};

Work DecodeWork(const OptConfig& c, int32_t batch, double context) {
  const double layer = 4.0 * c.hidden_size * c.hidden_size + 2.0 * c.hidden_size * c.ffn_size;
  const double weights = c.num_layers * layer + static_cast<double>(c.vocab_size) * c.embed_size;
  return {2.0 * weights, 2.0 * batch * (weights + c.num_layers * 2.0 * context * c.hidden_size)};
}

Work PromptWork(const OptConfig& c) {
  const double tokens = kPromptTokens;
  const double layer = 4.0 * c.hidden_size * c.hidden_size + 2.0 * c.hidden_size * c.ffn_size;
  const double attended = tokens * (tokens + 1) / 2;
  const double head = static_cast<double>(c.vocab_size) * c.embed_size;  // of the last token only
  return {2.0 * (c.num_layers * layer + head),
          2.0 * (tokens * c.num_layers * layer + c.num_layers * 2.0 * attended * c.hidden_size + head)};
}

class ModelTimer {
 public:
  static absl::StatusOr<ModelTimer> Make(int num_threads, bool deterministic_tp = false) {
    ModelTimer timer;
    timer.checkpoint_ = std::make_unique<RandomCheckpoint>(timer.config_);
    OPTSERVE_ASSIGN_OR_RETURN(const OptTensors tensors, OptTensors::Match(timer.config_, *timer.checkpoint_));
    OPTSERVE_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, MakeBackend({.num_threads = num_threads}));
    timer.worker_ = std::make_unique<RankWorker>(timer.config_, std::move(backend),
                                                 std::move(MakeThreadCommunicators(1).front()), deterministic_tp);
    OPTSERVE_RETURN_IF_ERROR(timer.worker_->LoadWeights(tensors));
    const int32_t num_blocks = kMaxBatch * kLastContext / kBlockSize;
    OPTSERVE_RETURN_IF_ERROR(
        timer.worker_->Allocate({.num_blocks = num_blocks, .block_size = kBlockSize}, {.max_tokens = kPromptTokens,
                                                                                       .max_sequences = kMaxBatch,
                                                                                       .max_context = kPromptTokens,
                                                                                       .block_size = kBlockSize}));
    return timer;
  }

  // Seconds of one decoding step, averaged over `steps`. Contexts grow as they do in service.
  absl::StatusOr<double> Decode(int32_t batch, int steps) {
    const double start = Now();
    for (int i = 0; i < steps; ++i) {
      OPTSERVE_RETURN_IF_ERROR(worker_->Execute(DecodePlan(batch, context_)).status());
      if (++context_ == kLastContext) context_ = kFirstContext;
    }
    return (Now() - start) / steps;
  }

  absl::StatusOr<double> Prompt() {
    const double start = Now();
    OPTSERVE_RETURN_IF_ERROR(worker_->Execute(PromptPlan()).status());
    return Now() - start;
  }

  const OptConfig& config() const { return config_; }

 private:
  OptConfig config_;  // the defaults are OPT-125M's
  std::unique_ptr<RandomCheckpoint> checkpoint_;
  std::unique_ptr<RankWorker> worker_;
  int32_t context_ = kFirstContext;
};

// The same thing measured several times.
struct Series {
  std::vector<double> tokens_per_second, ratios;
  Measurement Report(std::string name, std::string of, double target) const {
    return {std::move(name), Median(tokens_per_second), "tokens/s", Median(ratios), std::move(of), target};
  }
};

}  // namespace

absl::StatusOr<std::vector<Measurement>> BenchModel(MachineProbe& probe, int num_threads, int repetitions) {
  OPTSERVE_ASSIGN_OR_RETURN(ModelTimer timer, ModelTimer::Make(num_threads));
  OPTSERVE_RETURN_IF_ERROR(timer.Prompt().status());  // touches all memory
  OPTSERVE_RETURN_IF_ERROR(timer.Decode(kMaxBatch, 2).status());
  const double context = (kFirstContext + kLastContext) / 2.0;
  const Work one = DecodeWork(timer.config(), 1, context), many = DecodeWork(timer.config(), 32, context);
  const Work prompt = PromptWork(timer.config());
  OPTSERVE_ASSIGN_OR_RETURN(ModelTimer tree_timer, ModelTimer::Make(num_threads, /*deterministic_tp=*/true));
  OPTSERVE_RETURN_IF_ERROR(tree_timer.Prompt().status());
  OPTSERVE_RETURN_IF_ERROR(tree_timer.Decode(kMaxBatch, 2).status());
  Series batch1, batch8, batch32, prefill, tree_batch8, tree_prefill;
  for (int i = 0; i < repetitions; ++i) {
    MachineProbe::Sample before = probe.Take();
    OPTSERVE_ASSIGN_OR_RETURN(const double one_seconds, timer.Decode(1, 8));
    MachineProbe::Sample after = probe.Take();
    batch1.tokens_per_second.push_back(1 / one_seconds);
    batch1.ratios.push_back(one.weight_bytes / one_seconds / Faster(before, after).bytes_per_second);

    OPTSERVE_ASSIGN_OR_RETURN(const double eight_seconds, timer.Decode(8, 6));
    OPTSERVE_ASSIGN_OR_RETURN(const double one_again, timer.Decode(1, 8));
    batch8.tokens_per_second.push_back(8 / eight_seconds);
    batch8.ratios.push_back(8 * std::min(one_seconds, one_again) / eight_seconds);

    OPTSERVE_ASSIGN_OR_RETURN(const double tree_eight_seconds, tree_timer.Decode(8, 6));
    tree_batch8.tokens_per_second.push_back(8 / tree_eight_seconds);
    tree_batch8.ratios.push_back(eight_seconds / tree_eight_seconds);

    before = probe.Take();
    OPTSERVE_ASSIGN_OR_RETURN(const double many_seconds, timer.Decode(32, 2));
    after = probe.Take();
    batch32.tokens_per_second.push_back(32 / many_seconds);
    batch32.ratios.push_back(many.flops / many_seconds / Faster(before, after).flops);

    OPTSERVE_ASSIGN_OR_RETURN(const double prompt_seconds, timer.Prompt());
    before = probe.Take();
    prefill.tokens_per_second.push_back(kPromptTokens / prompt_seconds);
    prefill.ratios.push_back(prompt.flops / prompt_seconds / Faster(before, after).flops);

    OPTSERVE_ASSIGN_OR_RETURN(const double tree_prompt_seconds, tree_timer.Prompt());
    tree_prefill.tokens_per_second.push_back(kPromptTokens / tree_prompt_seconds);
    tree_prefill.ratios.push_back(prompt_seconds / tree_prompt_seconds);
  }
  return std::vector<Measurement>{batch1.Report("decode, batch 1", "read bandwidth", 0.75),
                                  batch8.Report("decode, batch 8", "batch 1", 5.0),
                                  batch32.Report("decode, batch 32", "FMA peak", 0.6),
                                  prefill.Report("prompt of 1024", "FMA peak", 0.6),
                                  tree_batch8.Report("deterministic-tp, batch 8", "without", 0.9),
                                  tree_prefill.Report("deterministic-tp, prompt of 1024", "without", 0.9)};
}

}  // namespace optserve
