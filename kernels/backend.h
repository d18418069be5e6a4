#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/cache/kv_cache_ops.h"
#include "kernels/collective/peer_link.h"
#include "kernels/common/context.h"
#include "kernels/common/tensor.h"
#include "kernels/embedding/embedding.h"
#include "kernels/linear/linear.h"
#include "kernels/norm/layer_norm.h"
#include "kernels/sampling/sampling.h"

namespace optserve {

class CudaDevice;  // kernels/common/cuda_device.h

// Memory of a backend; freed with this object.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual void* data() const = 0;   // aligned to 64 bytes
  virtual size_t size() const = 0;  // bytes
};

// Ops that were called once, kept to be run again as one call. It ends before its backend.
class OpGraph {
 public:
  virtual ~OpGraph() = default;
  virtual int64_t num_launches() const = 0;  // kernels that it starts on the device
};

// A place among a backend's ops that the host can wait for. It ends before its backend.
class OpEvent {
 public:
  virtual ~OpEvent() = default;
};

// Numbers on one device: memory, copies, and one virtual per op. One owner, one thread; ops run in the order of the
// calls and may still be running when a call returns, until Synchronize().
//
// Shapes are the caller's duty and are checked (abort). Steps allocate nothing: memory is taken at start.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual const DeviceInfo& info() const = 0;

  // Zeroed pages, touched on first use. ResourceExhausted names the shortfall.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) = 0;

  // Zeroed memory of the host, for copies that run while the host goes on. ResourceExhausted: there is none.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(size_t bytes) = 0;

  // Bytes that Allocate can still give, of a device with memory of its own; else 0.
  virtual int64_t FreeBytes() = 0;

  // Of a device's memory, what the backend took for itself when it was made: room that ops share.
  virtual int64_t workspace_bytes() const { return 0; }

  // Makes a weight usable by ops. The CPU returns the view itself (the mapped file is the memory); a device copies it
  // and keeps the copy until the backend dies: matrices as f16, vectors as f32. `host` must outlive the backend.
  // ResourceExhausted names the shortfall; InvalidArgument a number that f16 cannot hold.
  virtual absl::StatusOr<TensorView> LoadWeight(const TensorView& host) = 0;

  // The same for a weight whose rows do not lie in one place: read(row, count, out) writes `count` rows from `row` on
  // to `out`, one behind the other. Only dtype, rank and dims of `shape` count. The CPU puts the rows together in
  // memory of its own; a device asks for some megabytes at a time.
  using ReadRows = std::function<void(int64_t row, int64_t count, std::byte* out)>;
  virtual absl::StatusOr<TensorView> LoadRows(const TensorView& shape, const ReadRows& read) = 0;

  // `dst` is contiguous. `host` may change when it returns, memory of AllocateHost when the copy was waited for.
  virtual void CopyIn(const TensorView& dst, const void* host) = 0;
  virtual void CopyOut(void* host, const TensorView& src) = 0;  // src is contiguous; host is valid after a wait
  virtual absl::Status Synchronize() = 0;  // waits for all that was called; here and in Wait device faults appear

  // Record puts the event behind what was called so far; Wait waits for that alone to end.
  virtual absl::StatusOr<std::unique_ptr<OpEvent>> MakeEvent() = 0;
  virtual void Record(OpEvent& event) = 0;
  virtual absl::Status Wait(const OpEvent& event) = 0;

  // Joins the backends of a group's ranks, this one among them, into one that adds up over the GPUs' memory; one end
  // for each, which must end before the backends. FailedPrecondition: they cannot write into each other's memory.
  virtual absl::StatusOr<std::vector<std::unique_ptr<PeerLink>>> LinkPeers(std::span<Backend* const> ranks,
                                                                           const PeerOptions& options) {
    static_cast<void>(ranks), static_cast<void>(options);
    return absl::FailedPreconditionError("the ranks are not on GPUs");
  }

  // The GPU that ops are queued on, for communicators; null on the CPU.
  virtual CudaDevice* cuda_device() { return nullptr; }

  // Between the two calls ops, and collectives that run on the device, are kept instead of run, where the device can:
  // a CUDA graph. Each keeps the views and numbers that it was given, so what is to change from one run to the next
  // lies in the memory behind the views. Copies, Allocate and Synchronize must not come between.
  virtual bool can_capture() const { return false; }
  virtual void BeginCapture() {}
  virtual absl::StatusOr<std::unique_ptr<OpGraph>> EndCapture() {
    return absl::FailedPreconditionError("this device keeps no graphs");
  }
  virtual void Launch(const OpGraph& graph) { static_cast<void>(graph); }

  virtual void Embedding(const EmbeddingParams& p) = 0;
  virtual void PositionEmbedding(const PositionEmbeddingParams& p) = 0;
  virtual void LayerNorm(const LayerNormParams& p) = 0;
  virtual void AddBiasResidual(const AddBiasResidualParams& p) = 0;
  virtual void AddBiasResidualNorm(const AddBiasResidualParams& add, const LayerNormParams& norm) = 0;
  virtual void Linear(const LinearParams& p) = 0;
  virtual void WriteKv(const WriteKvParams& p) = 0;
  virtual void CopyBlocks(const CopyBlocksParams& p) = 0;
  virtual void PagedDecode(const PagedAttentionParams& p) = 0;
  virtual void PagedPrefill(const PagedAttentionParams& p) = 0;
  virtual void GatherRows(const GatherRowsParams& p) = 0;
  virtual void CopyRows(const CopyRowsParams& p) = 0;
  virtual void Sample(const SampleParams& p) = 0;
  virtual void Score(const ScoreParams& p) = 0;
};

enum class DeviceKind { kCpu, kCuda };

struct DeviceSpec {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;         // CUDA: which device
  bool or_only = false;  // CUDA: if the process sees but one, that one, whatever the index (srun --gpus-per-task=1)
  int num_threads = 0;   // CPU: threads of this rank's pool, the calling thread included; 0: all of the machine
};

// FailedPrecondition, with what to do, if this build or machine has no such device.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const DeviceSpec& spec);

}  // namespace optserve
