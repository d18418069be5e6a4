#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/common/cuda_device.h"
#include "kernels/common/cuda_machine.h"
#include "kernels/common/gpu.h"
#include "tests/cuda_emulator/emulator.h"

// A GPU whose memory is the host's and whose queue is always empty: calls finish before they return.

namespace optserve {
namespace {

constexpr int kRuntime = 12040;

// What the machine is to be like: OPTSERVE_EMULATOR_DEVICES, _SM, _MEMORY (bytes of each device), _DRIVER (the CUDA
// version that it knows, 12040 for 12.4), _MIG (1: a part of a GPU), _PEERS (0: no device can write into another's
// memory) and _FAULT=n (device 1's n-th synchronisation finds an error).
int64_t Setting(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoll(text, nullptr, 0) : otherwise;
}

class EmulatedDevice final : public CudaDevice {
 public:
  EmulatedDevice(int index, DeviceInfo info) : index_(index), info_(std::move(info)), free_(info_.memory_bytes) {}

  const DeviceInfo& info() const override { return info_; }
  int index() const override { return index_; }
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

  void* AllocateHost(size_t bytes) override {
    void* memory = emulator::Allocate(bytes, "memory of the host that kernels see");
    if (memory != nullptr) std::memset(memory, 0, bytes);
    return memory;
  }
  void FreeHost(void* memory) override { emulator::Free(memory); }

  std::string EnablePeer(const CudaDevice& other) override {
    if (other.index() == index_ || Setting("OPTSERVE_EMULATOR_PEERS", 1) != 0) return "";
    return info_.name + " cannot write into the memory of " + other.info().name;
  }

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

  std::string Synchronize() override {
    ++num_synchronized_;
    if (index_ == 1 && num_synchronized_ == Setting("OPTSERVE_EMULATOR_FAULT", 0)) has_failed_ = true;
    return has_failed_ ? "step failed: error 700, cudaErrorIllegalAddress, an illegal memory access" : "";
  }

 private:
  static constexpr size_t kHeader = 256;

  const int index_;
  const DeviceInfo info_;
  int64_t free_;
  int64_t num_synchronized_ = 0;
  bool has_failed_ = false;
};

}  // namespace

OpenedCudaDevice OpenCudaDevice(int index) {
  CudaMachine machine{.driver = static_cast<int>(Setting("OPTSERVE_EMULATOR_DRIVER", kRuntime)),
                      .runtime = kRuntime,
                      .count = static_cast<int>(Setting("OPTSERVE_EMULATOR_DEVICES", 16)),
                      .first_name = "emulated GPU"};
  if (Setting("OPTSERVE_EMULATOR_MIG", 0) != 0) machine.first_name += " MIG 1g.5gb", machine.count = 1;
  if (machine.driver < machine.runtime) machine.state = CudaMachine::State::kDriverTooOld;
  if (machine.count == 0) machine.state = CudaMachine::State::kNoDevice;
  if (std::string why = WhyNoDevice(machine, index); !why.empty()) return {nullptr, std::move(why)};
  DeviceInfo info;
  info.name = "emulated GPU " + std::to_string(index);
  info.sm_version = static_cast<int>(Setting("OPTSERVE_EMULATOR_SM", 70));
  if (std::string why = WhyNotUsable(info.name, info.sm_version); !why.empty()) return {nullptr, std::move(why)};
  info.sm_count = 4;
  info.memory_bytes = Setting("OPTSERVE_EMULATOR_MEMORY", int64_t{1} << 30);
  info.activation_dtype = DType::kF16;
  info.host_memory = false;
  return {std::make_unique<EmulatedDevice>(index, std::move(info)), ""};
}

}  // namespace optserve
