#include "kernels/backend_cpu.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/common/check.h"
#include "kernels/common/cpu_context.h"

namespace optserve {
namespace {

// Anonymous pages: zeroed by the kernel, and taken from the machine when first touched.
class CpuBuffer final : public Buffer {
 public:
  CpuBuffer(void* data, size_t size) : data_(data), size_(size) {}
  ~CpuBuffer() override { munmap(data_, size_); }
  CpuBuffer(const CpuBuffer&) = delete;
  CpuBuffer& operator=(const CpuBuffer&) = delete;

  void* data() const override { return data_; }
  size_t size() const override { return size_; }

 private:
  void* data_;
  size_t size_;
};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const DeviceInfo& device) : ctx_(device) {}

  const DeviceInfo& info() const override { return ctx_.info; }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    if (bytes == 0) bytes = 1;
    // Not MAP_NORESERVE: what the machine can never give is refused here instead of killing the process later.
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError("the system refuses " + std::to_string(bytes) +
                                          " bytes of memory (this machine has " +
                                          std::to_string(ctx_.info.memory_bytes) + "): " + std::strerror(errno));
    }
    madvise(data, bytes, MADV_HUGEPAGE);  // advice only: fewer TLB misses where the system grants it
    return std::make_unique<CpuBuffer>(data, bytes);
  }

  absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(size_t bytes) override { return Allocate(bytes); }

  int64_t FreeBytes() override { return 0; }

  absl::StatusOr<TensorView> LoadWeight(const TensorView& host) override { return host; }

  absl::StatusOr<TensorView> LoadRows(const TensorView& shape, const ReadRows& read) override {
    absl::StatusOr<std::unique_ptr<Buffer>> buffer = Allocate(shape.num_bytes());
    if (!buffer.ok()) return buffer.status();
    TensorView weight = shape;
    weight.data = (*buffer)->data();
    read(0, shape.dims[0], weight.as<std::byte>());
    gathered_.push_back(*std::move(buffer));
    return weight;
  }

  void CopyIn(const TensorView& dst, const void* host) override {
    OPTSERVE_CHECK(dst.is_contiguous());
    std::memcpy(dst.data, host, dst.num_bytes());
  }
  void CopyOut(void* host, const TensorView& src) override {
    OPTSERVE_CHECK(src.is_contiguous());
    std::memcpy(host, src.data, src.num_bytes());
  }
  // Calls have ended when they return.
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<OpEvent>> MakeEvent() override { return std::make_unique<OpEvent>(); }
  void Record(OpEvent&) override {}
  absl::Status Wait(const OpEvent&) override { return absl::OkStatus(); }

  void Embedding(const EmbeddingParams& p) override { cpu::Embedding(ctx_, p); }
  void PositionEmbedding(const PositionEmbeddingParams& p) override { cpu::PositionEmbedding(ctx_, p); }
  void LayerNorm(const LayerNormParams& p) override { cpu::LayerNorm(ctx_, p); }
  void AddBiasResidual(const AddBiasResidualParams& p) override { cpu::AddBiasResidual(ctx_, p); }
  void AddBiasResidualNorm(const AddBiasResidualParams& add, const LayerNormParams& norm) override {
    cpu::AddBiasResidualNorm(ctx_, add, norm);
  }
  void Linear(const LinearParams& p) override { cpu::Linear(ctx_, p); }
  void WriteKv(const WriteKvParams& p) override { cpu::WriteKv(ctx_, p); }
  void CopyBlocks(const CopyBlocksParams& p) override { cpu::CopyBlocks(ctx_, p); }
  void PagedDecode(const PagedAttentionParams& p) override { cpu::PagedDecode(ctx_, p); }
  void PagedPrefill(const PagedAttentionParams& p) override { cpu::PagedPrefill(ctx_, p); }
  void GatherRows(const GatherRowsParams& p) override { cpu::GatherRows(ctx_, p); }
  void CopyRows(const CopyRowsParams& p) override { cpu::CopyRows(ctx_, p); }
  void Sample(const SampleParams& p) override { cpu::Sample(ctx_, p); }
  void Score(const ScoreParams& p) override { cpu::Score(ctx_, p); }

 private:
  CpuContext ctx_;
  std::vector<std::unique_ptr<Buffer>> gathered_;  // weights of LoadRows
};

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend(const DeviceInfo& device) { return std::make_unique<CpuBackend>(device); }

}  // namespace optserve
