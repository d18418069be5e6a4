#pragma once

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
// also samples. It remembers nothing of earlier plans but what they put into the KV cache.
//
// One thread at a time calls; within a step all ranks of the group must be called.
class RankWorker {
 public:
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

  // Bytes that a rank takes for the inputs and results of steps within the limits.
  static int64_t StepBytes(const StepLimits& limits);

  // Takes the memory of the KV cache and of steps within the limits. ResourceExhausted names the shortfall.
  absl::Status Allocate(const KvBudget& kv, const StepLimits& limits);

  // Why this rank's decode steps cannot be kept as graphs; empty if they can.
  std::string WhyNoGraphs() const;
  // Captures a graph for each of `batches`, after a step of that shape. After Allocate; all ranks of the group at once.
  absl::Status CaptureGraphs(std::span<const int64_t> batches);
  const DecodeGraphs& graphs() const { return graphs_; }

  // Runs the plan; `drawn` has what the step before it drew. The result is empty on all ranks but 0. Its demand is left
  // to the caller.
  absl::StatusOr<StepResult> Execute(const StepPlan& plan, const DrawnTokens& drawn = {});

  // All ranks do before any of them ends: their communicators use each other's backends. Graphs have their calls.
  void LeaveGroup() {
    graphs_ = {};
    comm_.reset();
  }

  Backend& backend() { return *backend_; }
  Communicator& comm() const { return *comm_; }

 private:
  // What is read back of R rows, the most seldom wanted last; in the backend's memory and, after ReadBack, on the host.
  struct RowResults {
    TensorView ids;           // [R] i32
    TensorView logprobs;      // [R] f32
    TensorView finite;        // [R] i32
    TensorView top_ids;       // [R, kMaxTopLogprobs] i32
    TensorView top_logprobs;  // [R, kMaxTopLogprobs] f32
  };
  static RowResults LayOut(void* memory, int64_t num_rows);

  void ZeroBlocks(std::span<const int32_t> blocks);
  absl::Status InjectFaults(const StepPlan& plan);  // in test builds only
  void Compute();
  void SampleRows();
  absl::Status ReadSamples(StepResult& result);
  absl::Status ScoreRows(int64_t begin, int64_t count, StepResult& result);
  absl::Status ReadBack(int64_t num_rows, bool with_top);
  TokenScore ScoreAt(int64_t row, int32_t id, int32_t num_top) const;

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

  std::unique_ptr<Buffer> result_memory_;  // of rank 0
  std::vector<std::byte> host_memory_;
  RowResults host_;  // of the rows that were read last
};

}  // namespace optserve
