#include "kernels/backend_cuda.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "kernels/collective/peer_link_cuda.h"
#include "kernels/common/check.h"
#include "kernels/common/cuda_context.h"
#include "kernels/common/half.h"

namespace optserve {
namespace {

constexpr int64_t kNumCounters = int64_t{1} << 18;
constexpr float kLargestHalf = 65504.0f;
constexpr int64_t kBandBytes = int64_t{8} << 20;  // of a weight on its way, as the device holds it

// Memory of the device, or of the host in reach of the device: `free` gives it back.
class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(CudaDevice& device, void (CudaDevice::*free)(void*), void* data, size_t size)
      : device_(device), free_(free), data_(data), size_(size) {}
  ~CudaBuffer() override {
    device_.Activate();
    (device_.*free_)(data_);
  }
  CudaBuffer(const CudaBuffer&) = delete;
  CudaBuffer& operator=(const CudaBuffer&) = delete;

  void* data() const override { return data_; }
  size_t size() const override { return size_; }

 private:
  CudaDevice& device_;
  void (CudaDevice::*const free_)(void*);
  void* data_;
  size_t size_;
};

class CudaOpEvent final : public OpEvent {
 public:
  explicit CudaOpEvent(std::unique_ptr<CudaEvent> event) : event_(std::move(event)) {}
  CudaEvent& event() const { return *event_; }

 private:
  std::unique_ptr<CudaEvent> event_;
};

class CudaOpGraph final : public OpGraph {
 public:
  explicit CudaOpGraph(std::unique_ptr<CudaGraph> graph) : graph_(std::move(graph)) {}
  const CudaGraph& graph() const { return *graph_; }
  int64_t num_launches() const override { return graph_->num_nodes(); }

 private:
  std::unique_ptr<CudaGraph> graph_;
};

float ReadElement(const TensorView& view, int64_t i) {  // files store tensors as aligned as they like
  const auto read = [&](auto value) {
    std::memcpy(&value, view.as<const std::byte>() + i * static_cast<int64_t>(sizeof(value)), sizeof(value));
    return ToF32(value);
  };
  return view.dtype == DType::kF16 ? read(F16{}) : view.dtype == DType::kBF16 ? read(BF16{}) : read(0.0f);
}

// To nearest, ties to even; |x| <= kLargestHalf, or not finite.
F16 RoundToHalf(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  if (std::isnan(x)) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (std::isinf(x)) return {static_cast<uint16_t>(sign | 0x7c00u)};
  const float size = std::abs(x);
  if (size < 0x1p-14f) return {static_cast<uint16_t>(sign | static_cast<uint16_t>(std::lrint(size * 0x1p24f)))};
  const uint32_t rest = bits & 0x7fffffffu;
  const uint32_t rounded = rest + 0xfffu + ((rest >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13))};
}

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(std::unique_ptr<CudaDevice> device) : device_(std::move(device)) {
    ctx_.device = device_.get();
    ctx_.info = device_->info();
    ctx_.stream = device_->stream();
  }

  absl::Status AllocateWorkspace(size_t bytes) {
    auto workspace = Allocate(bytes);
    if (!workspace.ok()) return workspace.status();
    auto counters = Allocate(kNumCounters * sizeof(uint32_t));
    if (!counters.ok()) return counters.status();
    workspace_ = *std::move(workspace);
    counters_ = *std::move(counters);
    ctx_.workspace = static_cast<std::byte*>(workspace_->data());
    ctx_.workspace_bytes = bytes;
    ctx_.counters = static_cast<uint32_t*>(counters_->data());
    ctx_.num_counters = kNumCounters;
    return absl::OkStatus();
  }

  const DeviceInfo& info() const override { return ctx_.info; }
  int64_t workspace_bytes() const override {
    return static_cast<int64_t>(workspace_->size() + counters_->size()) + device_->library_bytes();
  }
  int64_t FreeBytes() override {
    device_->Activate();
    return device_->FreeBytes();
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    bytes = std::max<size_t>(bytes, 1);
    device_->Activate();
    void* data = device_->Allocate(bytes);
    if (data == nullptr) {
      const int64_t free = device_->FreeBytes();
      const int64_t missing = static_cast<int64_t>(bytes) - free;
      return absl::ResourceExhaustedError(
          ctx_.info.name + " has " + std::to_string(free) + " bytes of memory free and " + std::to_string(bytes) +
          " are needed" + (missing > 0 ? ": " + std::to_string(missing) + " too few" : " in one piece") +
          "; raise tensor_parallel_size, or take a smaller model");
    }
    return std::make_unique<CudaBuffer>(*device_, &CudaDevice::Free, data, bytes);
  }

  absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(size_t bytes) override {
    device_->Activate();
    void* data = device_->AllocateHost(std::max<size_t>(bytes, 1));
    if (data != nullptr) return std::make_unique<CudaBuffer>(*device_, &CudaDevice::FreeHost, data, bytes);
    return absl::ResourceExhaustedError(ctx_.info.name + ": the system refuses " + std::to_string(bytes) +
                                        " bytes of pinned memory; raise the limit on locked memory (ulimit -l)");
  }

  absl::StatusOr<TensorView> LoadWeight(const TensorView& host) override {
    return LoadInBands(host, [&](int64_t row, int64_t count) { return host.Rows(row, count); });
  }

  absl::StatusOr<TensorView> LoadRows(const TensorView& shape, const ReadRows& read) override {
    std::vector<std::byte> stored;
    return LoadInBands(shape, [&](int64_t row, int64_t count) {
      TensorView band = shape;
      band.dims[0] = count;
      band.row_stride = shape.row_size();
      stored.resize(band.num_bytes());
      band.data = stored.data();
      read(row, count, stored.data());
      return band;
    });
  }

  void CopyIn(const TensorView& dst, const void* host) override {
    OPTSERVE_CHECK(dst.is_contiguous());
    device_->Activate();
    device_->BeginOp("CopyIn");
    device_->CopyIn(dst.data, host, dst.num_bytes());
  }
  void CopyOut(void* host, const TensorView& src) override {
    OPTSERVE_CHECK(src.is_contiguous());
    device_->Activate();
    device_->BeginOp("CopyOut");
    device_->CopyOut(host, src.data, src.num_bytes());
  }
  absl::Status Synchronize() override {
    device_->Activate();
    return StatusOf(device_->Synchronize());
  }

  absl::StatusOr<std::unique_ptr<OpEvent>> MakeEvent() override {
    device_->Activate();
    std::unique_ptr<CudaEvent> event = device_->MakeEvent();
    if (event == nullptr) return StatusOf(device_->Synchronize());
    return std::make_unique<CudaOpEvent>(std::move(event));
  }
  void Record(OpEvent& event) override {
    device_->Activate();
    device_->Record(static_cast<CudaOpEvent&>(event).event());
  }
  absl::Status Wait(const OpEvent& event) override {
    device_->Activate();
    return StatusOf(device_->Wait(static_cast<const CudaOpEvent&>(event).event()));
  }

  absl::StatusOr<std::vector<std::unique_ptr<PeerLink>>> LinkPeers(std::span<Backend* const> ranks,
                                                                   const PeerOptions& options) override {
    std::vector<const CudaContext*> contexts;
    for (Backend* rank : ranks) contexts.push_back(&static_cast<CudaBackend*>(rank)->ctx_);
    LinkedPeers linked = LinkCudaPeers(contexts, options);
    if (linked.links.empty()) return absl::FailedPreconditionError(linked.error);
    return std::move(linked.links);
  }
  CudaDevice* cuda_device() override { return device_.get(); }

  bool can_capture() const override { return true; }
  void BeginCapture() override {
    device_->Activate();
    device_->BeginCapture();
  }
  absl::StatusOr<std::unique_ptr<OpGraph>> EndCapture() override {
    device_->Activate();
    std::unique_ptr<CudaGraph> graph = device_->EndCapture();
    const absl::Status status = Synchronize();
    if (!status.ok()) return status;
    if (graph == nullptr) return absl::InternalError(ctx_.info.name + ": a graph could not be captured");
    return std::make_unique<CudaOpGraph>(std::move(graph));
  }
  void Launch(const OpGraph& graph) override {
    device_->Activate();
    device_->BeginOp("a captured step");
    device_->Launch(static_cast<const CudaOpGraph&>(graph).graph());
  }

  void Embedding(const EmbeddingParams& p) override { cuda::Embedding(Begin("Embedding"), p); }
  void PositionEmbedding(const PositionEmbeddingParams& p) override {
    cuda::PositionEmbedding(Begin("PositionEmbedding"), p);
  }
  void LayerNorm(const LayerNormParams& p) override { cuda::LayerNorm(Begin("LayerNorm"), p); }
  void AddBiasResidual(const AddBiasResidualParams& p) override { cuda::AddBiasResidual(Begin("AddBiasResidual"), p); }
  void AddBiasResidualNorm(const AddBiasResidualParams& add, const LayerNormParams& norm) override {
    cuda::AddBiasResidualNorm(Begin("AddBiasResidualNorm"), add, norm);
  }
  void Linear(const LinearParams& p) override { cuda::Linear(Begin("Linear"), p); }
  void WriteKv(const WriteKvParams& p) override { cuda::WriteKv(Begin("WriteKv"), p); }
  void CopyBlocks(const CopyBlocksParams& p) override { cuda::CopyBlocks(Begin("CopyBlocks"), p); }
  void PagedDecode(const PagedAttentionParams& p) override { cuda::PagedDecode(Begin("PagedDecode"), p); }
  void PagedPrefill(const PagedAttentionParams& p) override { cuda::PagedPrefill(Begin("PagedPrefill"), p); }
  void GatherRows(const GatherRowsParams& p) override { cuda::GatherRows(Begin("GatherRows"), p); }
  void CopyRows(const CopyRowsParams& p) override { cuda::CopyRows(Begin("CopyRows"), p); }
  void Sample(const SampleParams& p) override { cuda::Sample(Begin("Sample"), p); }
  void Score(const ScoreParams& p) override { cuda::Score(Begin("Score"), p); }

 private:
  const CudaContext& Begin(const char* op) {
    device_->Activate();
    device_->BeginOp(op);
    return ctx_;
  }

  absl::Status StatusOf(const std::string& error) const {
    if (error.empty()) return absl::OkStatus();
    return absl::InternalError(ctx_.info.name + ": " + error);
  }

  // A place on the device for a weight of this shape. Rows of matrices start on 16 bytes, for vector loads.
  absl::StatusOr<TensorView> PlaceWeight(const TensorView& shape) {
    OPTSERVE_CHECK(shape.rank == 1 || shape.rank == 2) << "a weight of rank " << shape.rank;
    const bool is_matrix = shape.rank == 2;
    TensorView place = shape;
    place.dtype = is_matrix ? DType::kF16 : DType::kF32;
    place.row_stride = is_matrix ? (shape.dims[1] + 7) / 8 * 8 : 1;
    auto memory = Allocate(static_cast<size_t>(shape.dims[0] * place.row_stride) * SizeOf(place.dtype));
    if (!memory.ok()) return memory.status();
    place.data = (*memory)->data();
    weights_.push_back(*std::move(memory));
    return place;
  }

  // stored(row, count): those rows of a weight as the checkpoint has them; valid until it is called again.
  template <typename Stored>
  absl::StatusOr<TensorView> LoadInBands(const TensorView& shape, const Stored& stored) {
    absl::StatusOr<TensorView> place = PlaceWeight(shape);
    if (!place.ok()) return place.status();
    const int64_t row_bytes = place->row_stride * static_cast<int64_t>(SizeOf(place->dtype));
    const int64_t rows_at_once = std::max<int64_t>(1, kBandBytes / row_bytes);
    for (int64_t row = 0; row < shape.dims[0]; row += rows_at_once) {
      const int64_t count = std::min(rows_at_once, shape.dims[0] - row);
      absl::Status status = CopyBand(stored(row, count), place->Rows(row, count), row);
      if (!status.ok()) return status;
    }
    return place;
  }

  // `first_row` is the band's first, for the error.
  absl::Status CopyBand(const TensorView& from, const TensorView& to, int64_t first_row) {
    const int64_t rows = from.dims[0], columns = from.row_size();
    const size_t row_bytes = static_cast<size_t>(to.row_stride) * SizeOf(to.dtype);
    if (from.dtype == to.dtype && from.row_stride == to.row_stride && columns == to.row_stride) {
      device_->CopyIn(to.data, from.data, static_cast<size_t>(rows) * row_bytes);
      return absl::OkStatus();
    }
    std::vector<std::byte> staging(static_cast<size_t>(rows) * row_bytes);
    for (int64_t row = 0; row < rows; ++row) {
      std::byte* out = staging.data() + static_cast<size_t>(row) * row_bytes;
      const int64_t begin = row * from.row_stride;
      if (from.dtype == DType::kF16 && to.dtype == DType::kF16) {
        std::memcpy(out, from.as<const std::byte>() + begin * 2, static_cast<size_t>(columns) * 2);
        continue;
      }
      for (int64_t i = 0; i < columns; ++i) {
        const float value = ReadElement(from, begin + i);
        if (to.dtype == DType::kF32) {
          std::memcpy(out + i * 4, &value, 4);
          continue;
        }
        if (std::abs(value) > kLargestHalf && !std::isinf(value)) {
          return absl::InvalidArgumentError("row " + std::to_string(first_row + row) + " has " + std::to_string(value) +
                                            ", which f16, the format of weights on a GPU, cannot hold");
        }
        const F16 half = RoundToHalf(value);
        std::memcpy(out + i * 2, &half, 2);
      }
    }
    device_->CopyIn(to.data, staging.data(), staging.size());
    return absl::OkStatus();
  }

  std::unique_ptr<CudaDevice> device_;
  CudaContext ctx_;
  std::unique_ptr<Buffer> workspace_, counters_;
  std::vector<std::unique_ptr<Buffer>> weights_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(std::unique_ptr<CudaDevice> device, size_t workspace_bytes) {
  auto backend = std::make_unique<CudaBackend>(std::move(device));
  if (absl::Status status = backend->AllocateWorkspace(workspace_bytes); !status.ok()) return status;
  return backend;
}

}  // namespace optserve
