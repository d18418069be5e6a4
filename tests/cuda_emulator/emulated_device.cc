#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/common/cuda_device.h"
#include "kernels/common/cuda_machine.h"
#include "kernels/common/gpu.h"
#include "kernels/common/op_trail.h"
#include "tests/cuda_emulator/emulator.h"

// A GPU whose memory is the host's, and which runs what it is given at once, before a call returns, or as late as a GPU
// may: when the host waits for it; or on a thread of its own. What CUDA does not allow while a graph is captured is an
// error here, too.

namespace optserve {
namespace {

constexpr int kRuntime = 12040;
constexpr int64_t kOwnThread = 1, kLate = 2;

// What the machine is to be like: OPTSERVE_EMULATOR_DEVICES, _SM, _MEMORY (bytes of each device), _CODE (0: the build
// has no kernels for it), _DRIVER (the CUDA version that it knows, 12040 for 12.4), _MIG (1: a part of a GPU), _PEERS
// (0: no device can write into another's memory), _QUEUES (1: work runs on a thread of its own, 2: when the host waits
// for it), _FAULT=n (device 1's n-th synchronisation finds an error of the work before it), _REFUSED=op (device 1
// refuses to launch that op) and _FIRST=n (the process sees the machine's devices from the n-th on, as with
// CUDA_VISIBLE_DEVICES).
int64_t Setting(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoll(text, nullptr, 0) : otherwise;
}

class EmulatedGraph final : public CudaGraph {
 public:
  using Work = std::vector<emulator::Queued>;
  explicit EmulatedGraph(Work work) : work_(std::make_shared<const Work>(std::move(work))) {}
  int64_t num_nodes() const override { return static_cast<int64_t>(work_->size()); }
  // A graph may end while it runs.
  std::function<void()> Run() const {
    return [work = work_] {
      for (const emulator::Queued& node : *work) node.run();
    };
  }

 private:
  const std::shared_ptr<const Work> work_;
};

// What a device is still to do, by a thread of the queue's own or by whoever waits for it.
class WorkQueue {
 public:
  explicit WorkQueue(bool has_thread) {
    if (has_thread) thread_ = std::thread([this] { RunUntilStopped(); });
  }
  // Without what is still queued.
  ~WorkQueue() {
    {
      const std::lock_guard lock(mu_);
      is_stopping_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  void Add(std::function<void()> work) {
    {
      const std::lock_guard lock(mu_);
      work_.push_back(std::move(work));
    }
    changed_.notify_all();
  }
  // How much has been queued since the beginning.
  int64_t end() {
    const std::lock_guard lock(mu_);
    return num_done_ + std::ssize(work_);
  }
  // Without a thread: after running everything.
  bool is_idle() {
    if (!thread_.joinable()) RunTo(end());
    const std::lock_guard lock(mu_);
    return work_.empty();
  }
  void RunTo(int64_t place) {
    std::unique_lock lock(mu_);
    if (thread_.joinable()) return changed_.wait(lock, [&] { return num_done_ >= place; });
    while (num_done_ < place) RunNext(lock);
  }

 private:
  void RunNext(std::unique_lock<std::mutex>& lock) {
    const std::function<void()>& work = work_.front();  // stays there until it is done
    lock.unlock();
    work();
    lock.lock();
    work_.pop_front();
    ++num_done_;
    changed_.notify_all();
  }
  void RunUntilStopped() {
    std::unique_lock lock(mu_);
    try {
      while (true) {
        changed_.wait(lock, [this] { return is_stopping_ || !work_.empty(); });
        if (is_stopping_) return;
        RunNext(lock);
      }
    } catch (const emulator::Error& error) {
      std::fprintf(stderr, "%s\n", error.what());
      std::abort();
    }
  }

  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> work_;
  int64_t num_done_ = 0;
  bool is_stopping_ = false;
  std::thread thread_;
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
    const int64_t queues = Setting("OPTSERVE_EMULATOR_QUEUES", 0);
    if (queues != kOwnThread && queues != kLate) return;
    queue_ = std::make_unique<WorkQueue>(queues == kOwnThread);
    stream_.later = [this](std::function<void()> work) { queue_->Add(std::move(work)); };
  }

  const DeviceInfo& info() const override { return info_; }
  int index() const override { return index_; }
  int64_t identity() const override { return index_ + Setting("OPTSERVE_EMULATOR_FIRST", 0); }
  void Activate() override {}
  void* stream() const override { return &stream_; }
  void BeginOp(const char* op) override {
    trail_.Begin(op);
    const char* refused = std::getenv("OPTSERVE_EMULATOR_REFUSED");
    if (index_ == 1 && refused != nullptr && std::string(op) == refused) {
      Note(trail_.Last(), "launch", 701, "cudaErrorLaunchOutOfResources, too many resources requested for launch");
      stream_.is_next_refused = queue_ != nullptr;  // without, ranks meet in their calls, and all must come
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
    stream_.Take({nullptr, static_cast<const EmulatedGraph&>(graph).Run()});
  }

  std::unique_ptr<CudaEvent> MakeEvent() override { return std::make_unique<EmulatedEvent>(); }
  void Record(CudaEvent& event) override {
    auto& own = static_cast<EmulatedEvent&>(event);
    own.place = queue_ != nullptr ? queue_->end() : 0;
    own.trail_mark = trail_.Mark();
  }
  std::string Wait(const CudaEvent& event) override {
    const auto& own = static_cast<const EmulatedEvent&>(event);
    if (!NoteWait("cudaEventSynchronize")) return error_;
    if (queue_ != nullptr) queue_->RunTo(own.place);
    if (error_.empty()) trail_.ClearTo(own.trail_mark);
    return error_;
  }

  bool IsIdle() override { return queue_ == nullptr || queue_->is_idle(); }

  std::string Synchronize() override {
    if (!NoteWait("cudaStreamSynchronize")) return error_;
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
  // False: there is nothing to wait for, the device has failed.
  bool NoteWait(const char* call) {
    ++emulator::totals().synchronisations;
    if (!error_.empty()) return false;
    IsSpoilt(call);
    const int64_t faulty = Setting("OPTSERVE_EMULATOR_FAULT", 0);
    if (index_ == 1 && faulty > 0 && ++num_synchronized_ == faulty) {
      Note(trail_.Any(), "waiting", 700, "cudaErrorIllegalAddress, an illegal memory access was encountered");
    }
    return true;
  }

  void RunAll() {
    if (queue_ != nullptr) queue_->RunTo(queue_->end());
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
  std::vector<emulator::Queued> captured_;
  std::unique_ptr<WorkQueue> queue_;  // ends first; none: work runs at once
};

}  // namespace

OpenedCudaDevice OpenCudaDevice(int index, bool or_only) {
  CudaMachine machine{.driver = static_cast<int>(Setting("OPTSERVE_EMULATOR_DRIVER", kRuntime)),
                      .runtime = kRuntime,
                      .count = static_cast<int>(Setting("OPTSERVE_EMULATOR_DEVICES", 16)),
                      .first_name = "emulated GPU"};
  if (Setting("OPTSERVE_EMULATOR_MIG", 0) != 0) machine.first_name += " MIG 1g.5gb", machine.count = 1;
  if (machine.driver < machine.runtime) machine.state = CudaMachine::State::kDriverTooOld;
  if (machine.count == 0) machine.state = CudaMachine::State::kNoDevice;
  if (or_only && machine.count == 1) index = 0;
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
