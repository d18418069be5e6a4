#include "kernels/common/cuda_device.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <string>
#include <utility>

namespace optserve {
namespace {

constexpr int kOldestSm = 70;
// Room of cuBLAS's own: set by us, because what it takes by itself it takes during a step.
constexpr size_t kBlasWorkspaceBytes = size_t{32} << 20;

std::string VersionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

class RuntimeDevice final : public CudaDevice {
 public:
  RuntimeDevice(int index, DeviceInfo info) : index_(index), info_(std::move(info)) {}
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
  void Activate() override { Note("cudaSetDevice", cudaSetDevice(index_)); }
  void* stream() const override { return stream_; }

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

  // From memory that is not pinned both return when the host's side is done.
  void CopyIn(void* dst, const void* host, size_t bytes) override {
    Note("copy to the device", cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, stream_));
  }
  void CopyOut(void* host, const void* src, size_t bytes) override {
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

  std::string Synchronize() override {
    Note("launch", cudaGetLastError());
    Note("step", cudaStreamSynchronize(stream_));
    return error_;
  }

 private:
  // The first error stays: those after it are its consequences.
  bool Note(const char* what, cudaError_t status) {
    if (status != cudaSuccess && error_.empty()) {
      error_ = std::string(what) + " failed: " + cudaGetErrorName(status) + ", " + cudaGetErrorString(status);
    }
    return status == cudaSuccess;
  }
  void NoteBlas(const char* what, cublasStatus_t status) {
    if (status != CUBLAS_STATUS_SUCCESS && error_.empty()) {
      error_ = std::string(what) + " failed: " + cublasGetStatusString(status);
    }
  }

  const int index_;
  const DeviceInfo info_;
  cudaStream_t stream_ = nullptr;
  cublasHandle_t blas_ = nullptr;
  void* blas_workspace_ = nullptr;
  std::string error_;
};

// Why there is no device `index`, in the words of who can change it; empty if there is.
std::string WhyNot(int index) {
  int driver = 0, count = 0;
  cudaDriverGetVersion(&driver);
  const cudaError_t status = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (driver == 0) return "no NVIDIA driver is loaded; install one, or use --device cpu";
  if (status == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver knows CUDA " + VersionText(driver) + " and this build needs " +
           VersionText(CUDART_VERSION) + "; update the driver, or use the CUDA 12 build";
  }
  if (status == cudaErrorSystemNotReady) {
    return "the GPUs are not ready (error 802): start NVIDIA's Fabric Manager, which NVSwitch machines need";
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
    return "this machine has no NVIDIA GPU that this process may use; use --device cpu, or see CUDA_VISIBLE_DEVICES";
  }
  if (status != cudaSuccess) return std::string("the GPUs cannot be counted: ") + cudaGetErrorString(status);
  if (index >= count) {
    return "rank " + std::to_string(index) + " needs a GPU of its own and there are " + std::to_string(count) +
           "; lower tensor_parallel_size to at most " + std::to_string(count);
  }
  return "";
}

}  // namespace

OpenedCudaDevice OpenCudaDevice(int index) {
  if (std::string why = WhyNot(index); !why.empty()) return {nullptr, std::move(why)};
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
  if (info.sm_version < kOldestSm) {
    return {nullptr, info.name + " has compute capability " + std::to_string(properties.major) + "." +
                         std::to_string(properties.minor) + "; 7.0 or newer is needed"};
  }
  auto device = std::make_unique<RuntimeDevice>(index, info);
  if (std::string error = device->Open(); !error.empty()) return {nullptr, info.name + ": " + error};
  return {std::move(device), ""};
}

}  // namespace optserve
