#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "kernels/common/cuda_device.h"
#include "kernels/common/cuda_machine.h"
#include "kernels/common/gpu.h"
#include "kernels/common/op_trail.h"
#include "tests/cuda_emulator/emulator.h"

// A GPU whose memory is the host's, and which runs what it is given either at once, before a call returns, or as late
// as a GPU may: when the host waits for it. What CUDA does not allow while a graph is captured is an error here, too.

namespace optserve {
namespace {

constexpr int kRuntime = 12040;
constexpr int64_t kLate = 2;

// What the machine is to be like: OPTSERVE_EMULATOR_DEVICES, _SM, _MEMORY (bytes of each device), _CODE (0: the build
// has no kernels for it), _DRIVER (the CUDA version that it knows, 12040 for 12.4), _MIG (1: a part of a GPU), _PEERS
// (0: no device can write into another's memory), _QUEUES (2: work runs when the host waits for it), _FAULT=n (device
// 1's n-th synchronisation finds an error of the work before it) and _REFUSED=op (device 1 refuses to launch that op).
int64_t Setting(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoll(text, nullptr, 0) : otherwise;
}

class EmulatedGraph final : public CudaGraph {
 public:
  explicit EmulatedGraph(std::vector<emulator::Queued> work) : work_(std::move(work)) {}
  int64_t num_nodes() const override { return static_cast<int64_t>(work_.size()); }
  void Run() const {
    for (const emulator::Queued& node : work_) node.run();
  }

 private:
  const std::vector<emulator::Queued> work_;
};

// Memory that AllocateHost gave: copies use it when they run.
class PinnedMemory {
 public:
  void Add(const void* memory, size_t bytes) {
    const std::lock_guard lock(mu_);
    sizes_[static_cast<const std::byte*>(memory)] = bytes;
  }
  void Remove(const void* memory) {
    const std::lock_guard lock(mu_);
    sizes_.erase(static_cast<const std::byte*>(memory));
  }
  bool Has(const void* at) {
    const std::lock_guard lock(mu_);
    const auto behind = sizes_.upper_bound(static_cast<const std::byte*>(at));
    if (behind == sizes_.begin()) return false;
    const auto& [memory, bytes] = *std::prev(behind);
    return static_cast<const std::byte*>(at) < memory + bytes;
  }

 private:
  std::mutex mu_;
  std::map<const std::byte*, size_t> sizes_;
};
PinnedMemory& pinned() {
  static PinnedMemory memory;
  return memory;
}

struct EmulatedEvent final : public CudaEvent {
  int64_t place = 0;  // how much was queued before it
  long trail_mark = 0;
};

class EmulatedDevice final : public CudaDevice {
 public:
  EmulatedDevice(int index, DeviceInfo info) : index_(index), info_(std::move(info)), free_(info_.memory_bytes) {
    if (Setting("OPTSERVE_EMULATOR_QUEUES", 0) != kLate) return;
    stream_.later = [this](std::function<void()> work) { late_.push_back(std::move(work)); };
  }

  const DeviceInfo& info() const override { return info_; }
  int index() const override { return index_; }
  void Activate() override {}
  void* stream() const override { return &stream_; }
  void BeginOp(const char* op) override {
    trail_.Begin(op);
    const char* refused = std::getenv("OPTSERVE_EMULATOR_REFUSED");
    if (index_ == 1 && refused != nullptr && std::string(op) == refused) {
      Note(trail_.Last(), "launch", 701, "cudaErrorLaunchOutOfResources, too many resources requested for launch");
    }
  }

  void* Allocate(size_t bytes) override {
    ++emulator::totals().allocations;
    if (IsSpoilt("cudaMalloc")) return nullptr;
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
    IsSpoilt("cudaFree");
    RunAll();  // cudaFree waits
    auto* start = static_cast<std::byte*>(memory) - kHeader;
    size_t bytes = 0;
    std::memcpy(&bytes, start, sizeof(bytes));
    free_ += static_cast<int64_t>(bytes);
    emulator::Free(start);
  }
  int64_t FreeBytes() override { return free_; }
  int64_t library_bytes() const override { return 0; }

  void* AllocateHost(size_t bytes) override {
    void* memory = emulator::Allocate(bytes, "memory of the host that kernels see");
    if (memory == nullptr) return nullptr;
    std::memset(memory, 0, bytes);
    pinned().Add(memory, bytes);
    return memory;
  }
  void FreeHost(void* memory) override {
    RunAll();
    pinned().Remove(memory);
    emulator::Free(memory);
  }

  std::string EnablePeer(const CudaDevice& other) override {
    if (other.index() == index_ || Setting("OPTSERVE_EMULATOR_PEERS", 1) != 0) return "";
    return info_.name + " cannot write into the memory of " + other.info().name;
  }

  void CopyIn(void* dst, const void* host, size_t bytes) override {
    if (!stream_.later || pinned().Has(host)) return Copy(dst, host, bytes);
    const auto* const from = static_cast<const std::byte*>(host);
    Copy(dst, std::make_shared<std::vector<std::byte>>(from, from + bytes), bytes);
  }
  void CopyOut(void* host, const void* src, size_t bytes) override {
    Copy(host, src, bytes);
    if (!pinned().Has(host)) RunAll();
  }

  void Gemm(const GemmCall& c) override {
    emulator::Queue(&stream_, nullptr, [c] { Multiply(c); });
  }

  void BeginCapture() override {
    if (IsSpoilt("cudaStreamBeginCapture")) return;
    captured_.clear();
    stream_.captured = &captured_;
  }
  std::unique_ptr<CudaGraph> EndCapture() override {
    stream_.captured = nullptr;
    if (!error_.empty()) return nullptr;
    return std::make_unique<EmulatedGraph>(std::move(captured_));
  }
  void Launch(const CudaGraph& graph) override {
    if (IsSpoilt("cudaGraphLaunch")) return;
    ++emulator::totals().graph_launches;
    stream_.Take({nullptr, [&work = static_cast<const EmulatedGraph&>(graph)] { work.Run(); }});
  }

  std::unique_ptr<CudaEvent> MakeEvent() override { return std::make_unique<EmulatedEvent>(); }
  void Record(CudaEvent& event) override {
    auto& own = static_cast<EmulatedEvent&>(event);
    own.place = num_run_ + std::ssize(late_);
    own.trail_mark = trail_.Mark();
  }
  std::string Wait(const CudaEvent& event) override {
    const auto& own = static_cast<const EmulatedEvent&>(event);
    NoteWait("cudaEventSynchronize");
    while (num_run_ < own.place) RunNext();
    if (error_.empty()) trail_.ClearTo(own.trail_mark);
    return error_;
  }

  std::string Synchronize() override {
    NoteWait("cudaStreamSynchronize");
    RunAll();
    if (error_.empty()) trail_.Clear();
    return error_;
  }

 private:
  static constexpr size_t kHeader = 256;

  // Whether a graph is being captured, which `call` is not allowed then.
  bool IsSpoilt(const char* call) {
    if (stream_.captured == nullptr) return false;
    Note(trail_.Last(), call, 900,
         "cudaErrorStreamCaptureUnsupported, operation not permitted when stream is capturing");
    return true;
  }
  // The words of cuda_device.cc.
  void Note(const std::string& op, const char* call, int code, const char* words) {
    if (!error_.empty()) return;
    error_ = (op.empty() ? "" : op + ": ") + call + " failed: error " + std::to_string(code) + ", " + words;
  }
  void NoteWait(const char* call) {
    ++emulator::totals().synchronisations;
    IsSpoilt(call);
    const int64_t faulty = Setting("OPTSERVE_EMULATOR_FAULT", 0);
    if (index_ == 1 && faulty > 0 && ++num_synchronized_ == faulty) {
      Note(trail_.Any(), "waiting", 700, "cudaErrorIllegalAddress, an illegal memory access was encountered");
    }
  }

  void RunNext() {
    const std::function<void()> work = std::move(late_.front());
    late_.pop_front();
    ++num_run_;
    work();
  }
  void RunAll() {
    while (!late_.empty()) RunNext();
  }

  void Copy(void* dst, const void* src, size_t bytes) {
    ++emulator::totals().copies;
    if (!IsSpoilt("cudaMemcpyAsync")) stream_.Take({nullptr, [=] { std::memcpy(dst, src, bytes); }});
  }
  // From a copy of the host's memory, which may change from now on.
  void Copy(void* dst, const std::shared_ptr<std::vector<std::byte>>& src, size_t bytes) {
    ++emulator::totals().copies;
    if (!IsSpoilt("cudaMemcpyAsync")) stream_.Take({nullptr, [=] { std::memcpy(dst, src->data(), bytes); }});
  }

  static void Multiply(const GemmCall& c) {
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

  const int index_;
  const DeviceInfo info_;
  int64_t free_;
  int64_t num_synchronized_ = 0;  // since a fault was asked for
  OpTrail trail_;
  std::string error_;  // the first one stays
  mutable emulator::Stream stream_;
  std::deque<std::function<void()>> late_;
  int64_t num_run_ = 0;  // of late_, since the beginning
  std::vector<emulator::Queued> captured_;
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
  const auto code_version = static_cast<int>(Setting("OPTSERVE_EMULATOR_CODE", info.sm_version));
  if (std::string why = WhyNotUsable(info.name, info.sm_version, code_version); !why.empty()) return {nullptr, why};
  info.sm_count = 4;
  info.memory_bytes = Setting("OPTSERVE_EMULATOR_MEMORY", int64_t{1} << 30);
  info.activation_dtype = DType::kF16;
  info.host_memory = false;
  return {std::make_unique<EmulatedDevice>(index, std::move(info)), ""};
}

}  // namespace optserve
