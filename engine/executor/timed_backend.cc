#include "engine/executor/timed_backend.h"

#include <span>
#include <utility>
#include <vector>

namespace optserve {
namespace {

class TimedBackend final : public Backend {
 public:
  TimedBackend(std::unique_ptr<Backend> backend, StepClock& clock)
      : backend_(std::move(backend)), clock_(clock), runs_at_once_(backend_->info().host_memory) {}

  const DeviceInfo& info() const override { return backend_->info(); }
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override { return backend_->Allocate(bytes); }
  absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(size_t bytes) override { return backend_->AllocateHost(bytes); }
  int64_t FreeBytes() override { return backend_->FreeBytes(); }
  int64_t workspace_bytes() const override { return backend_->workspace_bytes(); }
  absl::StatusOr<TensorView> LoadWeight(const TensorView& host) override { return backend_->LoadWeight(host); }
  absl::StatusOr<TensorView> LoadRows(const TensorView& shape, const ReadRows& read) override {
    return backend_->LoadRows(shape, read);
  }
  void CopyIn(const TensorView& dst, const void* host) override { backend_->CopyIn(dst, host); }
  void CopyOut(void* host, const TensorView& src) override { backend_->CopyOut(host, src); }
  absl::Status Synchronize() override {
    if (runs_at_once_) return backend_->Synchronize();
    const StepClock::Scope scope(clock_, StepPhase::kDevice);
    return backend_->Synchronize();
  }

  absl::StatusOr<std::unique_ptr<OpEvent>> MakeEvent() override { return backend_->MakeEvent(); }
  void Record(OpEvent& event) override { backend_->Record(event); }
  absl::Status Wait(const OpEvent& event) override {
    if (runs_at_once_) return backend_->Wait(event);
    const StepClock::Scope scope(clock_, StepPhase::kDevice);
    return backend_->Wait(event);
  }

  absl::StatusOr<std::vector<std::unique_ptr<PeerLink>>> LinkPeers(std::span<Backend* const> ranks,
                                                                   const PeerOptions& options) override {
    return backend_->LinkPeers(ranks, options);
  }
  CudaDevice* cuda_device() override { return backend_->cuda_device(); }

  bool can_capture() const override { return backend_->can_capture(); }
  void BeginCapture() override { backend_->BeginCapture(); }
  absl::StatusOr<std::unique_ptr<OpGraph>> EndCapture() override { return backend_->EndCapture(); }
  void Launch(const OpGraph& graph) override { backend_->Launch(graph); }

  void Embedding(const EmbeddingParams& p) override { Run(StepPhase::kKernels, &Backend::Embedding, p); }
  void PositionEmbedding(const PositionEmbeddingParams& p) override {
    Run(StepPhase::kKernels, &Backend::PositionEmbedding, p);
  }
  void LayerNorm(const LayerNormParams& p) override { Run(StepPhase::kKernels, &Backend::LayerNorm, p); }
  void AddBiasResidual(const AddBiasResidualParams& p) override {
    Run(StepPhase::kKernels, &Backend::AddBiasResidual, p);
  }
  void AddBiasResidualNorm(const AddBiasResidualParams& add, const LayerNormParams& norm) override {
    Run(StepPhase::kKernels, &Backend::AddBiasResidualNorm, add, norm);
  }
  void Linear(const LinearParams& p) override { Run(StepPhase::kWeights, &Backend::Linear, p); }
  void WriteKv(const WriteKvParams& p) override { Run(StepPhase::kKernels, &Backend::WriteKv, p); }
  void CopyBlocks(const CopyBlocksParams& p) override { Run(StepPhase::kKernels, &Backend::CopyBlocks, p); }
  void PagedDecode(const PagedAttentionParams& p) override { Run(StepPhase::kAttention, &Backend::PagedDecode, p); }
  void PagedPrefill(const PagedAttentionParams& p) override { Run(StepPhase::kAttention, &Backend::PagedPrefill, p); }
  void GatherRows(const GatherRowsParams& p) override { Run(StepPhase::kKernels, &Backend::GatherRows, p); }
  void CopyRows(const CopyRowsParams& p) override { Run(StepPhase::kKernels, &Backend::CopyRows, p); }
  void Sample(const SampleParams& p) override { Run(StepPhase::kSampling, &Backend::Sample, p); }
  void Score(const ScoreParams& p) override { Run(StepPhase::kSampling, &Backend::Score, p); }

 private:
  template <typename... Params>
  void Run(StepPhase phase, void (Backend::*op)(const Params&...), const Params&... params) {
    const StepClock::Scope scope(clock_, runs_at_once_ ? phase : StepPhase::kGaps);
    (*backend_.*op)(params...);
  }

  const std::unique_ptr<Backend> backend_;
  StepClock& clock_;
  const bool runs_at_once_;
};

class TimedCommunicator final : public Communicator {
 public:
  TimedCommunicator(std::unique_ptr<Communicator> comm, bool runs_at_once, StepClock& clock)
      : comm_(std::move(comm)),
        clock_(clock),
        runs_at_once_(runs_at_once),
        phase_(runs_at_once ? StepPhase::kAllReduce : StepPhase::kGaps) {}

  int rank() const override { return comm_->rank(); }
  int size() const override { return comm_->size(); }
  void AllReduceSum(const TensorView& inout) override {
    const StepClock::Scope scope(clock_, phase_);
    comm_->AllReduceSum(inout);
  }
  // What `backend` does of it is counted as its own.
  void AllReduceAddNorm(const AddBiasResidualParams& add, const LayerNormParams* norm, Backend& backend) override {
    const StepClock::Scope scope(clock_, phase_);
    comm_->AllReduceAddNorm(add, norm, backend);
  }
  bool sums_as_tree() const override { return comm_->sums_as_tree(); }
  std::string WhyNoCapture() const override { return comm_->WhyNoCapture(); }
  void NoteLaunch() override { comm_->NoteLaunch(); }
  void AllGather(const TensorView& shard, const TensorView& all) override {
    const StepClock::Scope scope(clock_, phase_);
    comm_->AllGather(shard, all);
  }
  absl::Status Check() override {
    if (runs_at_once_) return comm_->Check();
    const StepClock::Scope scope(clock_, StepPhase::kDevice);
    return comm_->Check();
  }
  void Abort(const absl::Status& why) override { comm_->Abort(why); }
  bool check_waits_for_all() const override { return comm_->check_waits_for_all(); }
  uint64_t num_arrivals() const override { return comm_->num_arrivals(); }

 private:
  const std::unique_ptr<Communicator> comm_;
  StepClock& clock_;
  const bool runs_at_once_;
  const StepPhase phase_;
};

}  // namespace

std::unique_ptr<Backend> MakeTimedBackend(std::unique_ptr<Backend> backend, StepClock& clock) {
  return std::make_unique<TimedBackend>(std::move(backend), clock);
}

std::unique_ptr<Communicator> MakeTimedCommunicator(std::unique_ptr<Communicator> comm, bool runs_at_once,
                                                    StepClock& clock) {
  return std::make_unique<TimedCommunicator>(std::move(comm), runs_at_once, clock);
}

}  // namespace optserve
