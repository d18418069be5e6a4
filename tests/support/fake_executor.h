#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/executor/executor.h"
#include "tests/support/drawn_tokens.h"

namespace optserve {

// An executor without a model: the next token is a hash of all tokens of the sequence, read through its block table out
// of a store that has one entry for each slot of the pool. A wrong block table, a block that was given away too early,
// a copy that was forgotten, a token that was computed twice: each changes the answer. What a plan must never do (two
// slices that write one slot, a slot that is read before it is written, ...) is an error of Execute.
class FakeExecutor : public Executor {
 public:
  struct Options {
    int32_t num_blocks = 64;
    int32_t block_size = 4;
    int32_t vocab_size = 50;
    int32_t max_model_len = 1024;
    int32_t max_num_seqs = 256;
    int32_t max_num_batched_tokens = 2048;
    std::optional<int32_t> nonfinite_token;                    // rows with it in their context are not finite
    std::function<absl::Status(const StepPlan&)> before_step;  // may wait, or fail the step
  };

  explicit FakeExecutor(Options options);

  absl::StatusOr<StartResult> Start(const LoadProgress& progress) override;
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override;

  ModelInfo model() const;

  uint64_t num_steps() const { return num_steps_; }
  uint64_t num_tokens() const { return num_tokens_; }  // computed

 private:
  struct Slot {
    bool is_written = false;
    bool is_finite = true;
    uint64_t value = 0;
  };

  absl::Status CheckPlan(const StepPlan& plan);
  absl::Status CopyBlocks(const StepPlan& plan);
  absl::Status CheckNewBlocks(const StepPlan& plan);
  absl::Status RunSlice(const StepPlan& plan, int32_t index, size_t first_token, StepResult& result);
  int32_t SlotOf(const SequenceSlice& slice, int32_t position) const;

  const Options options_;
  std::vector<Slot> slots_;  // [num_blocks * block_size]
  DrawnTokens drawn_;
  std::unordered_set<int32_t> written_;  // slots, in this step
  uint64_t num_steps_ = 0;
  uint64_t num_tokens_ = 0;
};

// What the answer to a request must be, computed without blocks, batches and chunks.
struct ExpectedAnswer {
  std::vector<TokenScore> tokens;
  FinishReason finish = FinishReason::kNone;
  std::vector<TokenScore> prompt_scores;  // of prompt tokens 1, 2, ...; choice 0 only
};
ExpectedAnswer ExpectAnswer(const GenerateRequest& request, int32_t choice, const FakeExecutor::Options& options);

bool operator==(const TokenLogprob& a, const TokenLogprob& b);
bool operator==(const TokenScore& a, const TokenScore& b);

}  // namespace optserve
