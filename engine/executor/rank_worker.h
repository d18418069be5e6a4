#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/comm/communicator.h"
#include "engine/executor/decode_graphs.h"
#include "engine/executor/executor.h"
#include "engine/executor/step_clock.h"
#include "engine/executor/step_inputs.h"
#include "engine/executor/timed_backend.h"
#include "engine/model/kv_cache.h"
#include "engine/model/opt_config.h"
#include "engine/model/opt_model.h"
#include "engine/model/opt_weights.h"
#include "kernels/backend.h"

namespace optserve {

// One rank: a device with its shard of the weights, its share of the KV cache, and the model that uses them. Rank 0
// also samples. It remembers nothing of earlier plans but what they put into the KV cache, and what the last one drew:
// every rank has those ids in its device's memory, where the next step takes them from.
//
// One thread at a time calls; within a step all ranks of the group must be called.
class RankWorker {
 public:
  static constexpr int64_t kMaxStepsInFlight = 2;

  // With `deterministic_tp` the group's size changes no bit, see adr/0006.
  RankWorker(const OptConfig& config, std::unique_ptr<Backend> backend, std::unique_ptr<Communicator> comm,
             bool deterministic_tp = false)
      : config_(config),
        deterministic_tp_(deterministic_tp),
        backend_(MakeTimedBackend(std::move(backend), *clock_)),
        comm_(MakeTimedCommunicator(std::move(comm), backend_->info().host_memory, *clock_)) {}

  // `tensors` and the checkpoint behind them outlive the worker.
  absl::Status LoadWeights(const OptTensors& tensors, const LoadOptions& options = {});
  // Instead of that, for measuring: see MakeOptWeights.
  absl::Status MakeWeights(const MakeWeight& make);

  // Bytes that a rank of `num_ranks` takes for the inputs and results of steps within the limits.
  static int64_t StepBytes(const StepLimits& limits, int num_ranks);

  // Takes the memory of the KV cache and of steps within the limits. ResourceExhausted names the shortfall.
  absl::Status Allocate(const KvBudget& kv, const StepLimits& limits);

  // Why this rank's decode steps cannot be kept as graphs; empty if they can.
  std::string WhyNoGraphs() const;
  // Captures a graph for each of `batches`, after a step of that shape. After Allocate; all ranks of the group at once.
  absl::Status CaptureGraphs(std::span<const int64_t> batches);
  const DecodeGraphs& graphs() const { return graphs_; }

  // Submit queues a step behind the one before it and returns, where the device runs behind the calls, while both are
  // still to run: nothing of a step comes back to the host before Collect, which waits for the oldest that was not
  // collected. (Prompts that are scored are: Submit waits for them.) At most limits.steps_in_flight may be under way.
  // The result is empty on all ranks but 0. Its demand is left to the caller. After an error there is no next step.
  absl::Status Submit(const StepPlan& plan);
  absl::StatusOr<StepResult> Collect();
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) {
    if (absl::Status status = Submit(plan); !status.ok()) return status;
    return Collect();
  }

  // All ranks do before any of them ends: their communicators use each other's backends. Graphs have their calls.
  void LeaveGroup() {
    graphs_ = {};
    comm_.reset();
  }

  Backend& backend() { return *backend_; }
  Communicator& comm() const { return *comm_; }

 private:
  // What is read back of R rows, the most seldom wanted last; in the backend's memory, and the host's copy of it.
  struct RowResults {
    TensorView ids;           // [R] i32
    TensorView logprobs;      // [R] f32
    TensorView finite;        // [R] i32
    TensorView top_ids;       // [R, kMaxTopLogprobs] i32
    TensorView top_logprobs;  // [R, kMaxTopLogprobs] f32
  };
  static RowResults LayOut(void* memory, int64_t num_rows);

  // A step between Submit and Collect.
  struct Flight {
    std::unique_ptr<OpEvent> done;
    std::unique_ptr<Buffer> host;  // of rank 0: where the samples' results are copied to
    int64_t num_rows = 0;          // of samples
    std::vector<int32_t> sampled_slices, num_top;
    StepResult result;  // as far as it is known
  };

  absl::Status AllocateResults();
  void ZeroBlocks(std::span<const int32_t> blocks);
  absl::Status InjectFaults(const StepPlan& plan);  // in test builds only
  void Compute();
  void SampleRows();
  void ShareDrawn();
  void QueueReadBack(Flight& flight);
  void ReadSamples(Flight& flight);
  absl::Status ScoreRows(int64_t begin, int64_t count, StepResult& result);
  TokenScore ScoreAt(const RowResults& host, int64_t row, int32_t id, int32_t num_top) const;

  OptConfig config_;
  bool deterministic_tp_ = false;
  std::unique_ptr<StepClock> clock_ = std::make_unique<StepClock>();  // on the heap: backend and comm refer to it
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Communicator> comm_;
  OptWeights weights_;
  StepLimits limits_;
  std::optional<KvCache> kv_;
  std::optional<OptModel> model_;
  StepInputs inputs_;
  DecodeGraphs graphs_;

  std::unique_ptr<Buffer> sample_memory_, score_memory_;  // of rank 0: results of a step's samples, of a tile's scores
  std::vector<std::byte> host_scores_;
  // Ids that rank 0 has drawn, on every rank: [1 + ranks, max_samples], what it gives and what it gets. Only where
  // there are several ranks, and plans that need it.
  std::unique_ptr<Buffer> shared_ids_;
  std::array<Flight, kMaxStepsInFlight> flights_;
  uint64_t num_submitted_ = 0, num_collected_ = 0;
};

}  // namespace optserve
