#include "kernels/common/cuda_device.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/common/code_version.h"
#include "kernels/common/cuda_machine.h"
#include "kernels/common/op_trail.h"

namespace optserve {
namespace {

// Room of cuBLAS's own: set by us, because what it takes by itself it takes during a step.
constexpr size_t kBlasWorkspaceBytes = size_t{32} << 20;

bool IsLaunchBlocking() {
  const char* setting = std::getenv("CUDA_LAUNCH_BLOCKING");
  return setting != nullptr && std::string_view(setting) == "1";
}

class RuntimeGraph final : public CudaGraph {
 public:
  RuntimeGraph(cudaGraphExec_t exec, int64_t num_nodes) : exec_(exec), num_nodes_(num_nodes) {}
  ~RuntimeGraph() override { cudaGraphExecDestroy(exec_); }
  RuntimeGraph(const RuntimeGraph&) = delete;
  RuntimeGraph& operator=(const RuntimeGraph&) = delete;

  cudaGraphExec_t exec() const { return exec_; }
  int64_t num_nodes() const override { return num_nodes_; }

 private:
  const cudaGraphExec_t exec_;
  const int64_t num_nodes_;
};

class RuntimeEvent final : public CudaEvent {
 public:
  explicit RuntimeEvent(cudaEvent_t event) : event_(event) {}
  ~RuntimeEvent() override { cudaEventDestroy(event_); }
  RuntimeEvent(const RuntimeEvent&) = delete;
  RuntimeEvent& operator=(const RuntimeEvent&) = delete;

  cudaEvent_t event() const { return event_; }

  long trail_mark = 0;  // of what is queued before it

 private:
  const cudaEvent_t event_;
};

class RuntimeDevice final : public CudaDevice {
 public:
  RuntimeDevice(int index, int64_t identity, DeviceInfo info)
      : index_(index), identity_(identity), info_(std::move(info)) {}
  ~RuntimeDevice() override {
    Activate();
    if (blas_ != nullptr) cublasDestroy(blas_);
    if (blas_workspace_ != nullptr) cudaFree(blas_workspace_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  RuntimeDevice(const RuntimeDevice&) = delete;
  RuntimeDevice& operator=(const RuntimeDevice&) = delete;

  // Empty, or why the device cannot be used.
  std::string Open() {
    Activate();
    Note("cudaStreamCreate", cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    Note("cudaMalloc", cudaMalloc(&blas_workspace_, kBlasWorkspaceBytes));
    NoteBlas("cublasCreate", cublasCreate(&blas_));
    if (!error_.empty()) return error_;
    NoteBlas("cublasSetStream", cublasSetStream(blas_, stream_));
    NoteBlas("cublasSetWorkspace", cublasSetWorkspace(blas_, blas_workspace_, kBlasWorkspaceBytes));
    return error_;
  }

  const DeviceInfo& info() const override { return info_; }
  int64_t library_bytes() const override { return kBlasWorkspaceBytes; }
  int index() const override { return index_; }
  int64_t identity() const override { return identity_; }
  void Activate() override { Note("cudaSetDevice", cudaSetDevice(index_)); }
  void* stream() const override { return stream_; }
  // What the op before it launched is there, or was refused.
  void BeginOp(const char* op) override {
    NoteLaunch();
    trail_.Begin(op);
  }

  void* Allocate(size_t bytes) override {
    void* memory = nullptr;
    const cudaError_t status = cudaMalloc(&memory, bytes);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // handled: the caller says what was asked for
      return nullptr;
    }
    if (!Note("cudaMalloc", status)) return nullptr;
    Note("cudaMemset", cudaMemsetAsync(memory, 0, bytes, stream_));
    return memory;
  }
  void Free(void* memory) override { Note("cudaFree", cudaFree(memory)); }
  int64_t FreeBytes() override {
    size_t free = 0, total = 0;
    Note("cudaMemGetInfo", cudaMemGetInfo(&free, &total));
    return static_cast<int64_t>(free);
  }

  void* AllocateHost(size_t bytes) override {
    void* memory = nullptr;
    Note("cudaHostAlloc", cudaHostAlloc(&memory, bytes, cudaHostAllocPortable | cudaHostAllocMapped));
    if (memory != nullptr) std::memset(memory, 0, bytes);
    return memory;
  }
  void FreeHost(void* memory) override { Note("cudaFreeHost", cudaFreeHost(memory)); }

  std::string EnablePeer(const CudaDevice& other) override {
    if (other.index() == index_) return "";
    int can = 0;
    if (!Note("cudaDeviceCanAccessPeer", cudaDeviceCanAccessPeer(&can, index_, other.index()))) return error_;
    if (can == 0) return info_.name + " cannot write into the memory of " + other.info().name;
    const cudaError_t status = cudaDeviceEnablePeerAccess(other.index(), 0);
    cudaGetLastError();  // handled here
    if (status == cudaSuccess || status == cudaErrorPeerAccessAlreadyEnabled) return "";
    return info_.name + " cannot write into the memory of " + other.info().name + ": " + cudaGetErrorString(status);
  }

  // From memory that is not pinned both return when the host's side is done; from pinned memory at once.
  void CopyIn(void* dst, const void* host, size_t bytes) override {
    if (!MayCopy()) return;
    Note("copy to the device", cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, stream_));
  }
  void CopyOut(void* host, const void* src, size_t bytes) override {
    if (!MayCopy()) return;
    Note("copy from the device", cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, stream_));
  }

  // cuBLAS counts columns first: out^T = weight * x^T.
  void Gemm(const GemmCall& c) override {
    const float one = 1.0f, added = c.accumulate ? 1.0f : 0.0f;
    NoteBlas(
        "cublasGemmEx",
        cublasGemmEx(blas_, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(c.columns), static_cast<int>(c.rows),
                     static_cast<int>(c.depth), &one, c.weight, CUDA_R_16F, static_cast<int>(c.weight_stride), c.x,
                     CUDA_R_16F, static_cast<int>(c.x_stride), &added, c.out, c.out_is_half ? CUDA_R_16F : CUDA_R_32F,
                     static_cast<int>(c.out_stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT_TENSOR_OP));
  }

  // Of this thread alone: others allocate and copy for their devices meanwhile.
  void BeginCapture() override {
    capturing_ = Note("cudaStreamBeginCapture", cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  }
  std::unique_ptr<CudaGraph> EndCapture() override {
    capturing_ = false;
    NoteLaunch();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    size_t num_nodes = 0;
    if (!Note("cudaStreamEndCapture", cudaStreamEndCapture(stream_, &graph))) return nullptr;
    Note("cudaGraphGetNodes", cudaGraphGetNodes(graph, nullptr, &num_nodes));
    const bool made = Note("cudaGraphInstantiate", cudaGraphInstantiate(&exec, graph, 0));
    Note("cudaGraphDestroy", cudaGraphDestroy(graph));
    if (!made) return nullptr;
    auto result = std::make_unique<RuntimeGraph>(exec, static_cast<int64_t>(num_nodes));
    // Its memory is taken now and not with the first launch.
    Note("cudaGraphUpload", cudaGraphUpload(exec, stream_));
    return error_.empty() ? std::move(result) : nullptr;
  }
  void Launch(const CudaGraph& graph) override {
    Note("cudaGraphLaunch", cudaGraphLaunch(static_cast<const RuntimeGraph&>(graph).exec(), stream_));
  }

  std::unique_ptr<CudaEvent> MakeEvent() override {
    cudaEvent_t event = nullptr;
    if (!Note("cudaEventCreate", cudaEventCreateWithFlags(&event, cudaEventDisableTiming))) return nullptr;
    return std::make_unique<RuntimeEvent>(event);
  }
  void Record(CudaEvent& event) override {
    NoteLaunch();
    auto& own = static_cast<RuntimeEvent&>(event);
    Note("cudaEventRecord", cudaEventRecord(own.event(), stream_));
    own.trail_mark = trail_.Mark();
  }
  std::string Wait(const CudaEvent& event) override {
    NoteLaunch();
    if (!error_.empty()) return error_;  // as in Synchronize
    const auto& own = static_cast<const RuntimeEvent&>(event);
    if (Note("waiting", cudaEventSynchronize(own.event()))) trail_.ClearTo(own.trail_mark);
    return error_;
  }

  bool IsIdle() override { return cudaStreamQuery(stream_) != cudaErrorNotReady; }  // Synchronize says what failed

  std::string Synchronize() override {
    NoteLaunch();
    if (!error_.empty()) return error_;  // kernels may wait for another GPU, which waits for what was refused here
    if (Note("waiting", cudaStreamSynchronize(stream_))) trail_.Clear();
    return error_;
  }

 private:
  // CUDA would keep a copy with the address on the host, and read there what is there by then.
  bool MayCopy() {
    if (capturing_ && error_.empty()) error_ = "a copy between host and device while a graph is captured";
    return !capturing_;
  }

  // Launches have no result of their own.
  void NoteLaunch() { Note("launch", cudaGetLastError()); }

  // The first error stays: those after it are its consequences. One of work that was queued before may come with any
  // call (the manual calls it asynchronous), so the op is known only where the launch itself is at fault, or where
  // CUDA_LAUNCH_BLOCKING=1 makes every launch wait.
  bool Note(const char* what, cudaError_t status) {
    if (status != cudaSuccess && error_.empty()) {
      error_ = Of(IsOfTheCall(status) || is_blocking_ ? trail_.Last() : trail_.Any()) + what + " failed: error " +
               std::to_string(static_cast<int>(status)) + ", " + cudaGetErrorName(status) + ", " +
               cudaGetErrorString(status);
    }
    return status == cudaSuccess;
  }
  void NoteBlas(const char* what, cublasStatus_t status) {
    if (status != CUBLAS_STATUS_SUCCESS && error_.empty()) {
      error_ = Of(trail_.Last()) + what + " failed: error " + std::to_string(static_cast<int>(status)) + ", " +
               cublasGetStatusString(status);
    }
  }
  static std::string Of(const std::string& op) { return op.empty() ? "" : op + ": "; }
  static bool IsOfTheCall(cudaError_t status) {
    switch (status) {
      case cudaErrorInvalidValue:
      case cudaErrorInvalidConfiguration:
      case cudaErrorInvalidDeviceFunction:
      case cudaErrorNoKernelImageForDevice:
      case cudaErrorLaunchOutOfResources:
      case cudaErrorMemoryAllocation:
      case cudaErrorStreamCaptureUnsupported:
      case cudaErrorStreamCaptureInvalidated:
        return true;
      default:
        return false;
    }
  }

  const int index_;
  const int64_t identity_;
  const DeviceInfo info_;
  cudaStream_t stream_ = nullptr;
  cublasHandle_t blas_ = nullptr;
  void* blas_workspace_ = nullptr;
  bool capturing_ = false;
  const bool is_blocking_ = IsLaunchBlocking();
  OpTrail trail_;
  std::string error_;
};

CudaMachine AskMachine() {
  CudaMachine machine{.runtime = CUDART_VERSION};
  cudaDriverGetVersion(&machine.driver);
  const cudaError_t status = cudaGetDeviceCount(&machine.count);
  cudaGetLastError();
  if (status == cudaErrorInsufficientDriver) {
    machine.state = CudaMachine::State::kDriverTooOld;
  } else if (status == cudaErrorSystemNotReady) {
    machine.state = CudaMachine::State::kFabricManagerMissing;
  } else if (status == cudaErrorNoDevice || (status == cudaSuccess && machine.count == 0)) {
    machine.state = CudaMachine::State::kNoDevice;
  } else if (status != cudaSuccess) {
    machine.state = CudaMachine::State::kOther;
    machine.words = cudaGetErrorString(status);
  }
  cudaDeviceProp properties{};
  if (machine.count > 0 && cudaGetDeviceProperties(&properties, 0) == cudaSuccess) machine.first_name = properties.name;
  return machine;
}

}  // namespace

OpenedCudaDevice OpenCudaDevice(int index, bool or_only) {
  const CudaMachine machine = AskMachine();
  if (or_only && machine.count == 1) index = 0;
  if (std::string why = WhyNoDevice(machine, index); !why.empty()) return {nullptr, std::move(why)};
  cudaDeviceProp properties{};
  if (const cudaError_t status = cudaGetDeviceProperties(&properties, index); status != cudaSuccess) {
    return {nullptr, "GPU " + std::to_string(index) + " cannot be asked: " + cudaGetErrorString(status)};
  }
  DeviceInfo info;
  info.name = "GPU " + std::to_string(index) + " (" + properties.name + ")";
  info.sm_version = properties.major * 10 + properties.minor;
  info.sm_count = properties.multiProcessorCount;
  info.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  info.activation_dtype = DType::kF16;
  info.host_memory = false;
  cudaSetDevice(index);
  const int code_version = KernelCodeVersion();
  if (std::string why = WhyNotUsable(info.name, info.sm_version, code_version); !why.empty()) return {nullptr, why};
  // Kernels are chosen among those that the code has: PTX of sm_70 has not those of newer GPUs, where it runs too.
  info.sm_version = std::min(info.sm_version, code_version);
  // Where it is plugged in.
  const int64_t identity = int64_t{properties.pciDomainID} << 16 | properties.pciBusID << 8 | properties.pciDeviceID;
  auto device = std::make_unique<RuntimeDevice>(index, identity, info);
  if (std::string error = device->Open(); !error.empty()) return {nullptr, info.name + ": " + error};
  return {std::move(device), ""};
}

}  // namespace optserve
