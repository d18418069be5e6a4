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

class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(CudaDevice& device, void* data, size_t size) : device_(device), data_(data), size_(size) {}
  ~CudaBuffer() override {
    device_.Activate();
    device_.Free(data_);
  }
  CudaBuffer(const CudaBuffer&) = delete;
  CudaBuffer& operator=(const CudaBuffer&) = delete;

  void* data() const override { return data_; }
  size_t size() const override { return size_; }

 private:
  CudaDevice& device_;
  void* data_;
  size_t size_;
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
    return std::make_unique<CudaBuffer>(*device_, data, bytes);
  }

  // Matrices get rows that start on 16 bytes, for vector loads.
  absl::StatusOr<TensorView> LoadWeight(const TensorView& host) override {
    OPTSERVE_CHECK(host.rank == 1 || host.rank == 2) << "a weight of rank " << host.rank;
    TensorView loaded = host;
    const bool matrix = host.rank == 2;
    loaded.dtype = matrix ? DType::kF16 : DType::kF32;
    const int64_t rows = matrix ? host.dims[0] : 1, columns = matrix ? host.dims[1] : host.dims[0];
    const int64_t stride = matrix ? (columns + 7) / 8 * 8 : columns;
    loaded.row_stride = matrix ? stride : 1;
    const int64_t row_bytes = stride * static_cast<int64_t>(SizeOf(loaded.dtype));
    auto memory = Allocate(static_cast<size_t>(rows * row_bytes));
    if (!memory.ok()) return memory.status();
    loaded.data = (*memory)->data();
    const bool as_stored = host.dtype == loaded.dtype && (!matrix || (host.row_stride == stride && columns == stride));
    if (as_stored) {
      device_->CopyIn(loaded.data, host.data, static_cast<size_t>(rows * row_bytes));
    } else if (absl::Status status = CopyConverted(host, loaded, rows, columns, row_bytes); !status.ok()) {
      return status;
    }
    weights_.push_back(*std::move(memory));
    return loaded;
  }

  void CopyIn(const TensorView& dst, const void* host) override {
    OPTSERVE_CHECK(dst.is_contiguous());
    device_->Activate();
    device_->CopyIn(dst.data, host, dst.num_bytes());
  }
  void CopyOut(void* host, const TensorView& src) override {
    OPTSERVE_CHECK(src.is_contiguous());
    device_->Activate();
    device_->CopyOut(host, src.data, src.num_bytes());
  }
  absl::Status Synchronize() override {
    device_->Activate();
    const std::string error = device_->Synchronize();
    if (error.empty()) return absl::OkStatus();
    return absl::InternalError(ctx_.info.name + ": " + error);
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

  void Embedding(const EmbeddingParams& p) override { cuda::Embedding(Active(), p); }
  void PositionEmbedding(const PositionEmbeddingParams& p) override { cuda::PositionEmbedding(Active(), p); }
  void LayerNorm(const LayerNormParams& p) override { cuda::LayerNorm(Active(), p); }
  void AddBiasResidual(const AddBiasResidualParams& p) override { cuda::AddBiasResidual(Active(), p); }
  void AddBiasResidualNorm(const AddBiasResidualParams& add, const LayerNormParams& norm) override {
    cuda::AddBiasResidualNorm(Active(), add, norm);
  }
  void Linear(const LinearParams& p) override { cuda::Linear(Active(), p); }
  void WriteKv(const WriteKvParams& p) override { cuda::WriteKv(Active(), p); }
  void CopyBlocks(const CopyBlocksParams& p) override { cuda::CopyBlocks(Active(), p); }
  void PagedDecode(const PagedAttentionParams& p) override { cuda::PagedDecode(Active(), p); }
  void PagedPrefill(const PagedAttentionParams& p) override { cuda::PagedPrefill(Active(), p); }
  void GatherRows(const GatherRowsParams& p) override { cuda::GatherRows(Active(), p); }
  void CopyRows(const CopyRowsParams& p) override { cuda::CopyRows(Active(), p); }
  void Sample(const SampleParams& p) override { cuda::Sample(Active(), p); }
  void Score(const ScoreParams& p) override { cuda::Score(Active(), p); }

 private:
  const CudaContext& Active() {
    device_->Activate();
    return ctx_;
  }

  // Some rows at a time, through memory of the host.
  absl::Status CopyConverted(const TensorView& host, const TensorView& to, int64_t rows, int64_t columns,
                             int64_t row_bytes) {
    const int64_t rows_at_once = std::max<int64_t>(1, (int64_t{16} << 20) / row_bytes);
    std::vector<std::byte> staging;
    for (int64_t begin = 0; begin < rows; begin += rows_at_once) {
      const int64_t count = std::min(rows_at_once, rows - begin);
      staging.assign(static_cast<size_t>(count * row_bytes), std::byte{0});
      for (int64_t row = 0; row < count; ++row) {
        std::byte* out = staging.data() + row * row_bytes;
        const int64_t from = (begin + row) * host.row_stride;
        if (host.dtype == DType::kF16 && to.dtype == DType::kF16) {
          std::memcpy(out, host.as<const std::byte>() + from * 2, static_cast<size_t>(columns) * 2);
          continue;
        }
        for (int64_t i = 0; i < columns; ++i) {
          const float value = ReadElement(host, from + i);
          if (to.dtype == DType::kF32) {
            std::memcpy(out + i * 4, &value, 4);
            continue;
          }
          if (std::abs(value) > kLargestHalf && !std::isinf(value)) {
            return absl::InvalidArgumentError("row " + std::to_string(begin + row) + " has " + std::to_string(value) +
                                              ", which f16, the format of weights on a GPU, cannot hold");
          }
          const F16 half = RoundToHalf(value);
          std::memcpy(out + i * 2, &half, 2);
        }
      }
      device_->CopyIn(to.as<std::byte>() + begin * row_bytes, staging.data(), staging.size());
    }
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
