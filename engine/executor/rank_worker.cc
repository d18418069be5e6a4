#include "engine/executor/rank_worker.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "engine/util/fault_injection.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

constexpr int64_t kTile = OptModel::kLogitTile;
constexpr int64_t kTop = kMaxTopLogprobs;

}  // namespace

absl::Status RankWorker::LoadWeights(const OptTensors& tensors, const LoadOptions& options) {
  OPTSERVE_ASSIGN_OR_RETURN(
      weights_, LoadOptWeights(config_, tensors, {.rank = comm_->rank(), .size = comm_->size()}, *backend_, options));
  return absl::OkStatus();
}

absl::Status RankWorker::Allocate(const KvBudget& kv, int64_t max_tokens) {
  block_size_ = kv.block_size;
  OPTSERVE_ASSIGN_OR_RETURN(kv_, KvCache::Allocate({.num_layers = config_.num_layers,
                                                    .num_blocks = kv.num_blocks,
                                                    .num_heads = config_.num_heads / comm_->size(),
                                                    .block_size = kv.block_size,
                                                    .head_size = config_.head_size(),
                                                    .dtype = backend_->info().activation_dtype},
                                                   *backend_));
  OPTSERVE_ASSIGN_OR_RETURN(
      model_, OptModel::Make(config_, std::move(weights_), max_tokens, deterministic_tp_, *kv_, *comm_, *backend_));
  if (comm_->rank() != 0) return absl::OkStatus();

  constexpr size_t kBytes = static_cast<size_t>(kTile * (3 + 2 * kTop)) * 4;
  const auto lay_out = [](std::byte* at) {
    const auto next = [&](DType dtype, int64_t columns) {
      TensorView view = columns == 1 ? MakeView(at, dtype, kTile) : MakeView(at, dtype, kTile, columns);
      at += view.num_bytes();
      return view;
    };
    TileResults views;
    views.ids = next(DType::kI32, 1);
    views.logprobs = next(DType::kF32, 1);
    views.finite = next(DType::kI32, 1);
    views.top_ids = next(DType::kI32, kTop);
    views.top_logprobs = next(DType::kF32, kTop);
    return views;
  };
  OPTSERVE_ASSIGN_OR_RETURN(result_memory_, backend_->Allocate(kBytes));
  device_ = lay_out(static_cast<std::byte*>(result_memory_->data()));
  host_memory_.resize(kBytes);
  host_ = lay_out(host_memory_.data());
  return absl::OkStatus();
}

absl::StatusOr<StepResult> RankWorker::Execute(const StepPlan& plan, const DrawnTokens& drawn) {
  clock_->Start(StepPhase::kHost);
  OPTSERVE_RETURN_IF_ERROR(InjectFaults(plan));
  OPTSERVE_RETURN_IF_ERROR(inputs_.Set(plan, drawn, block_size_, *backend_));
  ZeroBlocks(plan.zeroed_blocks);
  clock_->Enter(StepPhase::kGaps);
  model_->Forward(inputs_);
  OPTSERVE_RETURN_IF_ERROR(comm_->Check());
  StepResult result;
  result.step = plan.step;
  for (int64_t begin = 0; begin < inputs_.num_samples; begin += kTile) {
    OPTSERVE_RETURN_IF_ERROR(SampleRows(begin, std::min(kTile, inputs_.num_samples - begin), result));
  }
  const auto num_scores = static_cast<int64_t>(inputs_.score_rows.size());
  for (int64_t begin = 0; begin < num_scores; begin += kTile) {
    OPTSERVE_RETURN_IF_ERROR(ScoreRows(begin, std::min(kTile, num_scores - begin), result));
  }
  OPTSERVE_RETURN_IF_ERROR(backend_->Synchronize());
  OPTSERVE_RETURN_IF_ERROR(comm_->Check());
  result.times = clock_->Stop();
  return result;
}

// Rare, so copies do.
void RankWorker::ZeroBlocks(std::span<const int32_t> blocks) {
  if (blocks.empty()) return;
  const std::vector<std::byte> zeros(kv_->keys(0).Rows(0, 1).num_bytes());
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    for (const int32_t block : blocks) {
      backend_->CopyIn(kv_->keys(layer).Rows(block, 1), zeros.data());
      backend_->CopyIn(kv_->values(layer).Rows(block, 1), zeros.data());
    }
  }
}

absl::Status RankWorker::InjectFaults(const StepPlan& plan) {
  for (const InjectedFault& fault : FaultsDue(plan.step, comm_->rank())) {
    OPTSERVE_RETURN_IF_ERROR(CommitFault(fault));
    if (fault.kind != InjectedFault::Kind::kNan || fault.row >= std::ssize(plan.slices)) continue;
    // In the newest value of its cache, where a bad memory cell would be.
    const SequenceSlice& slice = plan.slices[fault.row];
    if (slice.num_cached == 0) continue;
    const int64_t slot = slice.num_cached - 1;
    const TensorView values = kv_->values(0);
    // All bits set are a NaN in every format.
    const auto element = static_cast<int64_t>(SizeOf(values.dtype));
    const std::vector<std::byte> nan(static_cast<size_t>(values.dims[3] * element), std::byte{0xff});
    std::byte* const at = values.as<std::byte>() +
                          (slice.block_table[slot / block_size_] * values.dims[1] * block_size_ + slot % block_size_) *
                              values.dims[3] * element;
    backend_->CopyIn(MakeView(at, values.dtype, values.dims[3]), nan.data());
  }
  return absl::OkStatus();
}

absl::Status RankWorker::SampleRows(int64_t begin, int64_t count, StepResult& result) {
  const TensorView logits = model_->Logits(inputs_, begin, count);
  if (comm_->rank() != 0) return absl::OkStatus();
  const StepClock::Scope scope(*clock_, StepPhase::kSampling);
  backend_->Sample({.logits = logits,
                    .rows = inputs_.sample_rows + begin,
                    .counts = inputs_.counts,
                    .bias = inputs_.bias,
                    .suppressed = inputs_.suppressed,
                    .ids = device_.ids,
                    .logprobs = device_.logprobs,
                    .top_ids = device_.top_ids,
                    .top_logprobs = device_.top_logprobs,
                    .finite = device_.finite});
  OPTSERVE_RETURN_IF_ERROR(ReadBack());
  for (int64_t r = 0; r < count; ++r) {
    SampledToken& sampled = result.sampled.emplace_back();
    sampled.slice = inputs_.sampled_slices[begin + r];
    sampled.finite = host_.finite.as<const int32_t>()[r] != 0;
    if (sampled.finite) {
      sampled.token = ScoreAt(r, host_.ids.as<const int32_t>()[r], inputs_.num_top[begin + r]);
    }
  }
  return absl::OkStatus();
}

absl::Status RankWorker::ScoreRows(int64_t begin, int64_t count, StepResult& result) {
  const TensorView logits = model_->Logits(inputs_, inputs_.num_samples + begin, count);
  if (comm_->rank() != 0) return absl::OkStatus();
  const StepClock::Scope scope(*clock_, StepPhase::kSampling);
  int32_t num_top = 0;
  for (int64_t r = begin; r < begin + count; ++r) num_top = std::max(num_top, inputs_.score_rows[r].num_top);
  backend_->Score({.logits = logits,
                   .targets = inputs_.targets.Rows(begin, count),
                   .num_top = num_top,
                   .logprobs = device_.logprobs,
                   .top_ids = device_.top_ids,
                   .top_logprobs = device_.top_logprobs,
                   .finite = device_.finite});
  OPTSERVE_RETURN_IF_ERROR(ReadBack());
  for (int64_t r = 0; r < count; ++r) {
    const StepInputs::ScoreRow& row = inputs_.score_rows[begin + r];
    if (result.scored.empty() || result.scored.back().slice != row.slice) {
      result.scored.push_back({.slice = row.slice});
    }
    ScoredPrompt& scored = result.scored.back();
    if (host_.finite.as<const int32_t>()[r] == 0) scored.finite = false;
    scored.tokens.push_back(ScoreAt(r, row.target, row.num_top));
  }
  return absl::OkStatus();
}

absl::Status RankWorker::ReadBack() {
  backend_->CopyOut(host_memory_.data(),
                    MakeView(result_memory_->data(), DType::kI32, static_cast<int64_t>(host_memory_.size() / 4)));
  return backend_->Synchronize();
}

TokenScore RankWorker::ScoreAt(int64_t row, int32_t id, int32_t num_top) const {
  TokenScore score{.id = id, .logprob = host_.logprobs.as<const float>()[row]};
  const int64_t top = std::min<int64_t>({num_top, kTop, config_.vocab_size});
  for (int64_t i = 0; i < top; ++i) {
    score.top.push_back(
        {host_.top_ids.as<const int32_t>()[row * kTop + i], host_.top_logprobs.as<const float>()[row * kTop + i]});
  }
  return score;
}

}  // namespace optserve
