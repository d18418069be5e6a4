#include "engine/executor/rank_worker.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "engine/util/fault_injection.h"
#include "engine/util/status_macros.h"
#include "kernels/common/check.h"

namespace optserve {
namespace {

constexpr int64_t kTile = OptModel::kLogitTile;
constexpr int64_t kTop = kMaxTopLogprobs;
constexpr int64_t kWord = sizeof(int32_t);
constexpr int64_t kResultBytes = (3 + 2 * kTop) * kWord;  // of a row

// Ids that rank 0 draws must come to the others.
bool SharesIds(const StepLimits& limits, int num_ranks) { return limits.steps_in_flight > 1 && num_ranks > 1; }
int64_t SharedIdBytes(const StepLimits& limits, int num_ranks) {
  return SharesIds(limits, num_ranks) ? (1 + num_ranks) * limits.max_samples() * kWord : 0;
}

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

int64_t RankWorker::StepBytes(const StepLimits& limits, int num_ranks) {
  return StepInputs::PlannedBytes(limits) + (limits.max_samples() + kTile) * kResultBytes +
         SharedIdBytes(limits, num_ranks);
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
  return AllocateResults();
}

absl::Status RankWorker::AllocateResults() {
  OPTSERVE_CHECK(limits_.steps_in_flight <= kMaxStepsInFlight) << limits_.steps_in_flight << " steps in flight";
  const bool samples = comm_->rank() == 0;
  const auto sample_bytes = static_cast<size_t>(limits_.max_samples() * kResultBytes);
  for (Flight& flight : flights_) {
    OPTSERVE_ASSIGN_OR_RETURN(flight.done, backend_->MakeEvent());
    if (!samples) continue;
    OPTSERVE_ASSIGN_OR_RETURN(flight.host, backend_->AllocateHost(sample_bytes));
  }
  if (samples) {
    constexpr auto kScoreBytes = static_cast<size_t>(kTile * kResultBytes);
    OPTSERVE_ASSIGN_OR_RETURN(sample_memory_, backend_->Allocate(sample_bytes));
    OPTSERVE_ASSIGN_OR_RETURN(score_memory_, backend_->Allocate(kScoreBytes));
    host_scores_.resize(kScoreBytes);
  }
  if (SharesIds(limits_, comm_->size())) {
    const auto bytes = static_cast<size_t>(SharedIdBytes(limits_, comm_->size()));
    OPTSERVE_ASSIGN_OR_RETURN(shared_ids_, backend_->Allocate(bytes));
    // What is gathered begins with rank 0's.
    auto* const ids = static_cast<int32_t*>(shared_ids_->data());
    inputs_.drawn = MakeView(ids + limits_.max_samples(), DType::kI32, limits_.max_samples());
  } else if (comm_->size() == 1) {
    inputs_.drawn = MakeView(sample_memory_->data(), DType::kI32, limits_.max_samples());
  }
  return absl::OkStatus();
}

// Ids come first, so that they begin at one address whatever the number of rows.

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
    OPTSERVE_RETURN_IF_ERROR(inputs_.Set({}, static_cast<int32_t>(limits_.block_size), *backend_, shape));
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

absl::Status RankWorker::Submit(const StepPlan& plan) {
  OPTSERVE_CHECK(num_submitted_ - num_collected_ < kMaxStepsInFlight) << "step " << plan.step << " is one too many";
  Flight& flight = flights_[num_submitted_++ % kMaxStepsInFlight];
  flight.result = {.step = plan.step};
  clock_->Start(StepPhase::kHost);
  OPTSERVE_RETURN_IF_ERROR(InjectFaults(plan));
  const DecodeGraphs::Entry* graph = graphs_.Find(plan);
  OPTSERVE_RETURN_IF_ERROR(inputs_.Set(plan, static_cast<int32_t>(limits_.block_size), *backend_,
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
  QueueReadBack(flight);
  const auto num_scores = static_cast<int64_t>(inputs_.score_rows.size());
  for (int64_t begin = 0; begin < num_scores; begin += kTile) {
    OPTSERVE_RETURN_IF_ERROR(ScoreRows(begin, std::min(kTile, num_scores - begin), flight.result));
  }
  if (num_scores > 0) OPTSERVE_RETURN_IF_ERROR(backend_->Synchronize());  // as rank 0 does
  backend_->Record(*flight.done);
  flight.result.times = clock_->Stop();
  return absl::OkStatus();
}

absl::StatusOr<StepResult> RankWorker::Collect() {
  OPTSERVE_CHECK(num_collected_ < num_submitted_) << "no step is under way";
  Flight& flight = flights_[num_collected_++ % kMaxStepsInFlight];
  clock_->Start(StepPhase::kHost);
  OPTSERVE_RETURN_IF_ERROR(comm_->Check());
  OPTSERVE_RETURN_IF_ERROR(backend_->Wait(*flight.done));
  OPTSERVE_RETURN_IF_ERROR(comm_->Check());
  ReadSamples(flight);
  flight.result.times.Add(clock_->Stop());
  return std::move(flight.result);
}

// A step from its inputs to what it draws, which stays on the device. Nothing here may depend on numbers of the plan
// that its shape does not fix: a graph keeps them.
void RankWorker::Compute() {
  model_->Forward(inputs_);
  SampleRows();
  ShareDrawn();
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
    const RowResults results = LayOut(sample_memory_->data(), num_rows);
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

// Every rank's embedding needs the ids, and only rank 0 has them.
void RankWorker::ShareDrawn() {
  const int64_t num_rows = inputs_.num_samples;
  if (shared_ids_ == nullptr || num_rows == 0) return;
  auto* const memory = static_cast<int32_t*>(shared_ids_->data());
  void* const own = comm_->rank() == 0 ? sample_memory_->data() : memory;  // the others' means nothing
  comm_->AllGather(MakeView(own, DType::kI32, num_rows),
                   MakeView(memory + limits_.max_samples(), DType::kI32, comm_->size(), num_rows));
}

void RankWorker::QueueReadBack(Flight& flight) {
  flight.sampled_slices = inputs_.sampled_slices;
  flight.num_top = inputs_.num_top;
  flight.num_rows = inputs_.num_samples;
  if (comm_->rank() != 0 || flight.sampled_slices.empty()) return;
  const StepClock::Scope scope(*clock_, StepPhase::kSampling);
  const bool with_top = std::ranges::any_of(flight.num_top, [](int32_t num_top) { return num_top > 0; });
  const int64_t numbers = flight.num_rows * (with_top ? kResultBytes / kWord : 3);
  backend_->CopyOut(flight.host->data(), MakeView(sample_memory_->data(), DType::kI32, numbers));
}

void RankWorker::ReadSamples(Flight& flight) {
  if (comm_->rank() != 0 || flight.sampled_slices.empty()) return;
  const StepClock::Scope scope(*clock_, StepPhase::kSampling);
  const RowResults host = LayOut(flight.host->data(), flight.num_rows);
  for (int64_t r = 0; r < std::ssize(flight.sampled_slices); ++r) {
    SampledToken& sampled = flight.result.sampled.emplace_back();
    sampled.slice = flight.sampled_slices[r];
    sampled.finite = host.finite.as<const int32_t>()[r] != 0;
    if (sampled.finite) sampled.token = ScoreAt(host, r, host.ids.as<const int32_t>()[r], flight.num_top[r]);
  }
}

absl::Status RankWorker::ScoreRows(int64_t begin, int64_t count, StepResult& result) {
  const TensorView logits = model_->Logits(inputs_, inputs_.num_samples + begin, count);
  OPTSERVE_RETURN_IF_ERROR(comm_->Check());
  if (comm_->rank() != 0) return absl::OkStatus();
  const StepClock::Scope scope(*clock_, StepPhase::kSampling);
  int32_t num_top = 0;
  for (int64_t r = begin; r < begin + count; ++r) num_top = std::max(num_top, inputs_.score_rows[r].num_top);
  const RowResults results = LayOut(score_memory_->data(), count);
  backend_->Score({.logits = logits,
                   .targets = inputs_.targets.Rows(begin, count),
                   .num_top = num_top,
                   .logprobs = results.logprobs,
                   .top_ids = results.top_ids,
                   .top_logprobs = results.top_logprobs,
                   .finite = results.finite});
  const int64_t numbers = count * (num_top > 0 ? kResultBytes / kWord : 3);
  backend_->CopyOut(host_scores_.data(), MakeView(score_memory_->data(), DType::kI32, numbers));
  OPTSERVE_RETURN_IF_ERROR(backend_->Synchronize());
  const RowResults host = LayOut(host_scores_.data(), count);
  for (int64_t r = 0; r < count; ++r) {
    const StepInputs::ScoreRow& row = inputs_.score_rows[begin + r];
    if (result.scored.empty() || result.scored.back().slice != row.slice) {
      result.scored.push_back({.slice = row.slice});
    }
    ScoredPrompt& scored = result.scored.back();
    if (host.finite.as<const int32_t>()[r] == 0) scored.finite = false;
    scored.tokens.push_back(ScoreAt(host, r, row.target, row.num_top));
  }
  return absl::OkStatus();
}

TokenScore RankWorker::ScoreAt(const RowResults& host, int64_t row, int32_t id, int32_t num_top) const {
  TokenScore score{.id = id, .logprob = host.logprobs.as<const float>()[row]};
  const int64_t top = std::min<int64_t>({num_top, kTop, config_.vocab_size});
  for (int64_t i = 0; i < top; ++i) {
    score.top.push_back(
        {host.top_ids.as<const int32_t>()[row * kTop + i], host.top_logprobs.as<const float>()[row * kTop + i]});
  }
  return score;
}

}  // namespace optserve
