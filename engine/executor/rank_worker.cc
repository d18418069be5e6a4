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
constexpr int64_t kWord = sizeof(int32_t);
constexpr int64_t kResultBytes = (3 + 2 * kTop) * kWord;  // of a row

// Samples of a whole step, or scores of a tile.
int64_t ResultRows(const StepLimits& limits) { return std::max(kTile, limits.max_samples()); }

}  // namespace

absl::Status RankWorker::LoadWeights(const OptTensors& tensors, const LoadOptions& options) {
  OPTSERVE_ASSIGN_OR_RETURN(
      weights_, LoadOptWeights(config_, tensors, {.rank = comm_->rank(), .size = comm_->size()}, *backend_, options));
  return absl::OkStatus();
}

absl::Status RankWorker::MakeWeights(const MakeWeight& make) {
  OPTSERVE_ASSIGN_OR_RETURN(weights_, MakeOptWeights(config_, {.rank = comm_->rank(), .size = comm_->size()}, make));
  return absl::OkStatus();
}

int64_t RankWorker::StepBytes(const StepLimits& limits) {
  return StepInputs::PlannedBytes(limits) + ResultRows(limits) * kResultBytes;
}

absl::Status RankWorker::Allocate(const KvBudget& kv, const StepLimits& limits) {
  limits_ = limits;
  OPTSERVE_CHECK(kv.block_size == limits.block_size) << kv.block_size << " is not " << limits.block_size;
  OPTSERVE_ASSIGN_OR_RETURN(kv_, KvCache::Allocate({.num_layers = config_.num_layers,
                                                    .num_blocks = kv.num_blocks,
                                                    .num_heads = config_.num_heads / comm_->size(),
                                                    .block_size = kv.block_size,
                                                    .head_size = config_.head_size(),
                                                    .dtype = backend_->info().activation_dtype},
                                                   *backend_));
  OPTSERVE_ASSIGN_OR_RETURN(model_, OptModel::Make(config_, std::move(weights_), limits.max_tokens, deterministic_tp_,
                                                   *kv_, *comm_, *backend_));
  OPTSERVE_RETURN_IF_ERROR(inputs_.Plan(limits, *backend_));
  if (comm_->rank() != 0) return absl::OkStatus();
  const int64_t bytes = ResultRows(limits) * kResultBytes;
  OPTSERVE_ASSIGN_OR_RETURN(result_memory_, backend_->Allocate(static_cast<size_t>(bytes)));
  host_memory_.resize(static_cast<size_t>(bytes));
  return absl::OkStatus();
}

RankWorker::RowResults RankWorker::LayOut(void* memory, int64_t num_rows) {
  auto* at = static_cast<std::byte*>(memory);
  const auto next = [&](DType dtype, int64_t columns) {
    TensorView view = columns == 1 ? MakeView(at, dtype, num_rows) : MakeView(at, dtype, num_rows, columns);
    at += view.num_bytes();
    return view;
  };
  RowResults views;
  views.ids = next(DType::kI32, 1);
  views.logprobs = next(DType::kF32, 1);
  views.finite = next(DType::kI32, 1);
  views.top_ids = next(DType::kI32, kTop);
  views.top_logprobs = next(DType::kF32, kTop);
  return views;
}

std::string RankWorker::WhyNoGraphs() const {
  if (!backend_->can_capture()) return "the device keeps none";
  return comm_->WhyNoCapture();
}

absl::Status RankWorker::CaptureGraphs(std::span<const int64_t> batches) {
  for (const int64_t rows : batches) {
    const FixedShape shape{.rows = rows, .blocks = limits_.max_blocks()};
    OPTSERVE_RETURN_IF_ERROR(inputs_.Set({}, {}, static_cast<int32_t>(limits_.block_size), *backend_, shape));
    OPTSERVE_CHECK(inputs_.is_planned()) << rows << " rows";
    // What the driver and the library load or take when a kernel first runs, they must not while a graph is captured.
    Compute();
    OPTSERVE_RETURN_IF_ERROR(comm_->Check());
    OPTSERVE_RETURN_IF_ERROR(backend_->Synchronize());
    backend_->BeginCapture();
    Compute();
    OPTSERVE_ASSIGN_OR_RETURN(std::unique_ptr<OpGraph> graph, backend_->EndCapture());
    graphs_.Add(shape, std::move(graph));
  }
  return absl::OkStatus();
}

absl::StatusOr<StepResult> RankWorker::Execute(const StepPlan& plan, const DrawnTokens& drawn) {
  clock_->Start(StepPhase::kHost);
  OPTSERVE_RETURN_IF_ERROR(InjectFaults(plan));
  const DecodeGraphs::Entry* graph = graphs_.Find(plan);
  OPTSERVE_RETURN_IF_ERROR(inputs_.Set(plan, drawn, static_cast<int32_t>(limits_.block_size), *backend_,
                                       graph != nullptr ? graph->shape : FixedShape{}));
  ZeroBlocks(plan.zeroed_blocks);
  clock_->Enter(StepPhase::kGaps);
  model_->CopyBlocks(inputs_);
  if (graph != nullptr && inputs_.is_planned()) {
    comm_->NoteLaunch();
    backend_->Launch(*graph->graph);
  } else {
    Compute();
  }
  OPTSERVE_RETURN_IF_ERROR(comm_->Check());
  StepResult result;
  result.step = plan.step;
  OPTSERVE_RETURN_IF_ERROR(ReadSamples(result));
  const auto num_scores = static_cast<int64_t>(inputs_.score_rows.size());
  for (int64_t begin = 0; begin < num_scores; begin += kTile) {
    OPTSERVE_RETURN_IF_ERROR(ScoreRows(begin, std::min(kTile, num_scores - begin), result));
  }
  OPTSERVE_RETURN_IF_ERROR(backend_->Synchronize());
  OPTSERVE_RETURN_IF_ERROR(comm_->Check());
  result.times = clock_->Stop();
  return result;
}

// A step from its inputs to what it draws, which stays on the device. Nothing here may depend on numbers of the plan
// that its shape does not fix: a graph keeps them.
void RankWorker::Compute() {
  model_->Forward(inputs_);
  SampleRows();
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
    std::byte* const at =
        values.as<std::byte>() + (slice.block_table[slot / limits_.block_size] * values.dims[1] * limits_.block_size +
                                  slot % limits_.block_size) *
                                     values.dims[3] * element;
    backend_->CopyIn(MakeView(at, values.dtype, values.dims[3]), nan.data());
  }
  return absl::OkStatus();
}

void RankWorker::SampleRows() {
  const int64_t num_rows = inputs_.num_samples;
  for (int64_t begin = 0; begin < num_rows; begin += kTile) {
    const int64_t count = std::min(kTile, num_rows - begin);
    const TensorView logits = model_->Logits(inputs_, begin, count);
    if (comm_->rank() != 0) continue;
    const StepClock::Scope scope(*clock_, StepPhase::kSampling);
    const RowResults results = LayOut(result_memory_->data(), num_rows);
    backend_->Sample({.logits = logits,
                      .rows = inputs_.sample_rows + begin,
                      .counts = inputs_.counts,
                      .bias = inputs_.bias,
                      .suppressed = inputs_.suppressed,
                      .ids = results.ids.Rows(begin, count),
                      .logprobs = results.logprobs.Rows(begin, count),
                      .top_ids = results.top_ids.Rows(begin, count),
                      .top_logprobs = results.top_logprobs.Rows(begin, count),
                      .finite = results.finite.Rows(begin, count)});
  }
}

absl::Status RankWorker::ReadSamples(StepResult& result) {
  if (comm_->rank() != 0 || inputs_.sampled_slices.empty()) return absl::OkStatus();
  const StepClock::Scope scope(*clock_, StepPhase::kSampling);
  const bool with_top = std::ranges::any_of(inputs_.num_top, [](int32_t num_top) { return num_top > 0; });
  OPTSERVE_RETURN_IF_ERROR(ReadBack(inputs_.num_samples, with_top));
  for (int64_t r = 0; r < std::ssize(inputs_.sampled_slices); ++r) {
    SampledToken& sampled = result.sampled.emplace_back();
    sampled.slice = inputs_.sampled_slices[r];
    sampled.finite = host_.finite.as<const int32_t>()[r] != 0;
    if (sampled.finite) sampled.token = ScoreAt(r, host_.ids.as<const int32_t>()[r], inputs_.num_top[r]);
  }
  return absl::OkStatus();
}

absl::Status RankWorker::ScoreRows(int64_t begin, int64_t count, StepResult& result) {
  const TensorView logits = model_->Logits(inputs_, inputs_.num_samples + begin, count);
  OPTSERVE_RETURN_IF_ERROR(comm_->Check());
  if (comm_->rank() != 0) return absl::OkStatus();
  const StepClock::Scope scope(*clock_, StepPhase::kSampling);
  int32_t num_top = 0;
  for (int64_t r = begin; r < begin + count; ++r) num_top = std::max(num_top, inputs_.score_rows[r].num_top);
  const RowResults results = LayOut(result_memory_->data(), count);
  backend_->Score({.logits = logits,
                   .targets = inputs_.targets.Rows(begin, count),
                   .num_top = num_top,
                   .logprobs = results.logprobs,
                   .top_ids = results.top_ids,
                   .top_logprobs = results.top_logprobs,
                   .finite = results.finite});
  OPTSERVE_RETURN_IF_ERROR(ReadBack(count, num_top > 0));
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

// Waits for the device.
absl::Status RankWorker::ReadBack(int64_t num_rows, bool with_top) {
  host_ = LayOut(host_memory_.data(), num_rows);
  const int64_t numbers = num_rows * (with_top ? kResultBytes / kWord : 3);
  backend_->CopyOut(host_memory_.data(), MakeView(result_memory_->data(), DType::kI32, numbers));
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
