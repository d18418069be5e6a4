#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/common/cuda_device.h"
#include "kernels/common/gpu.h"
#include "tests/cuda_emulator/emulator.h"

// A GPU whose memory is the host's and whose queue is always empty: calls finish before they return.

namespace optserve {
namespace {

// What the machine is to have: OPTSERVE_EMULATOR_DEVICES, _SM and _MEMORY (bytes of each device).
int64_t Setting(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoll(text, nullptr, 0) : otherwise;
}

class EmulatedDevice final : public CudaDevice {
 public:
  explicit EmulatedDevice(DeviceInfo info) : info_(std::move(info)), free_(info_.memory_bytes) {}

  const DeviceInfo& info() const override { return info_; }
  void Activate() override {}
  void* stream() const override { return nullptr; }

  void* Allocate(size_t bytes) override {
    if (static_cast<int64_t>(bytes) > free_) return nullptr;
    // Its size is kept in front of it.
    auto* memory = static_cast<std::byte*>(emulator::Allocate(bytes + kHeader, "device memory"));
    if (memory == nullptr) return nullptr;
    std::memcpy(memory, &bytes, sizeof(bytes));
    std::memset(memory + kHeader, 0, bytes);
    free_ -= static_cast<int64_t>(bytes);
    return memory + kHeader;
  }
  void Free(void* memory) override {
    auto* start = static_cast<std::byte*>(memory) - kHeader;
    size_t bytes = 0;
    std::memcpy(&bytes, start, sizeof(bytes));
    free_ += static_cast<int64_t>(bytes);
    emulator::Free(start);
  }
  int64_t FreeBytes() override { return free_; }

  void CopyIn(void* dst, const void* host, size_t bytes) override { std::memcpy(dst, host, bytes); }
  void CopyOut(void* host, const void* src, size_t bytes) override { std::memcpy(host, src, bytes); }

  void Gemm(const GemmCall& c) override {
    std::vector<float> x(static_cast<size_t>(c.depth));
    for (int64_t row = 0; row < c.rows; ++row) {
      for (int64_t k = 0; k < c.depth; ++k) x[k] = ToF32(c.x[row * c.x_stride + k]);
      for (int64_t column = 0; column < c.columns; ++column) {
        const F16* weight = c.weight + column * c.weight_stride;
        float sum = 0.0f;
        for (int64_t k = 0; k < c.depth; ++k) sum += x[k] * ToF32(weight[k]);
        const int64_t at = row * c.out_stride + column;
        if (c.out_is_half) {
          F16* out = static_cast<F16*>(c.out) + at;
          *out = gpu::ToHalf(c.accumulate ? sum + ToF32(*out) : sum);
        } else {
          float* out = static_cast<float*>(c.out) + at;
          *out = c.accumulate ? sum + *out : sum;
        }
      }
    }
  }

  std::string Synchronize() override { return ""; }

 private:
  static constexpr size_t kHeader = 256;

  const DeviceInfo info_;
  int64_t free_;
};

}  // namespace

OpenedCudaDevice OpenCudaDevice(int index) {
  const int64_t count = Setting("OPTSERVE_EMULATOR_DEVICES", 16);
  if (index >= count) {
    return {nullptr, "rank " + std::to_string(index) + " needs a GPU of its own and there are " +
                         std::to_string(count) + "; lower tensor_parallel_size to at most " + std::to_string(count)};
  }
  DeviceInfo info;
  info.name = "emulated GPU " + std::to_string(index);
  info.sm_version = static_cast<int>(Setting("OPTSERVE_EMULATOR_SM", 70));
  info.sm_count = 4;
  info.memory_bytes = Setting("OPTSERVE_EMULATOR_MEMORY", int64_t{1} << 30);
  info.activation_dtype = DType::kF16;
  return {std::make_unique<EmulatedDevice>(std::move(info)), ""};
}

}  // namespace optserve
