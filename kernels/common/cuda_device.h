#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels/common/context.h"
#include "kernels/common/half.h"

// A CUDA device as the backend needs it: memory, copies and work in one queue, and a matrix product. There are two:
// cuda_device.cc on the CUDA runtime and cuBLAS, and tests/cuda_emulator/emulated_device.cc. A program links one.

namespace optserve {

// out[t, n] = sum_k x[t, k] * weight[n, k] + (accumulate ? out[t, n] : 0); f16 products, f32 sums.
struct GemmCall {
  const F16* x = nullptr;  // [rows, depth]
  int64_t x_stride = 0;
  const F16* weight = nullptr;  // [columns, depth]
  int64_t weight_stride = 0;
  void* out = nullptr;  // [rows, columns]
  int64_t out_stride = 0;
  bool out_is_half = false;
  int64_t rows = 0, columns = 0, depth = 0;
  bool accumulate = false;
};

// Work that was queued once, kept to be queued again as one. It ends before its device.
class CudaGraph {
 public:
  virtual ~CudaGraph() = default;
  virtual int64_t num_nodes() const = 0;  // kernels in it
};

// A place in a device's queue that the host can wait for. It ends before its device.
class CudaEvent {
 public:
  virtual ~CudaEvent() = default;
};

// Used by one thread at a time. Calls are queued in order unless they say otherwise; errors show at Synchronize().
class CudaDevice {
 public:
  virtual ~CudaDevice() = default;

  virtual const DeviceInfo& info() const = 0;
  virtual int index() const = 0;         // among those that this process sees
  virtual int64_t identity() const = 0;  // a number that no other GPU of the machine has
  virtual void Activate() = 0;           // what the calling thread does next concerns this device
  virtual void* stream() const = 0;

  // The work that follows belongs to `op`, a literal: for the words of errors.
  virtual void BeginOp(const char* op) = 0;

  virtual void* Allocate(size_t bytes) = 0;  // zeroed, aligned to 256 bytes; nullptr: not so much left
  virtual void Free(void* memory) = 0;
  virtual int64_t FreeBytes() = 0;
  virtual int64_t library_bytes() const = 0;  // taken for the matrix product

  // Memory of the host that kernels of all devices read and write too, and that copies use while the host goes on;
  // zeroed. nullptr: not so much left.
  virtual void* AllocateHost(size_t bytes) = 0;
  virtual void FreeHost(void* memory) = 0;

  // Lets kernels on this device write into `other`'s memory, all of it, from then on. Empty, or why not.
  virtual std::string EnablePeer(const CudaDevice& other) = 0;

  // The host's memory may change, and has what was copied out, when the call returns; that of AllocateHost when the
  // host has waited for the copy.
  virtual void CopyIn(void* dst, const void* host, size_t bytes) = 0;
  virtual void CopyOut(void* host, const void* src, size_t bytes) = 0;
  virtual void Gemm(const GemmCall& call) = 0;

  // Between the two, kernels and products are kept instead of run, each with the arguments that it was given. Anything
  // else that takes memory, copies or waits spoils the graph: EndCapture then returns nullptr, Synchronize says why.
  virtual void BeginCapture() = 0;
  virtual std::unique_ptr<CudaGraph> EndCapture() = 0;
  virtual void Launch(const CudaGraph& graph) = 0;

  // Record puts the event behind what is queued; Wait waits until that is done, and returns what Synchronize does.
  virtual std::unique_ptr<CudaEvent> MakeEvent() = 0;  // nullptr: Synchronize says why
  virtual void Record(CudaEvent& event) = 0;
  virtual std::string Wait(const CudaEvent& event) = 0;

  // Whether all of it is done, or has failed; does not wait.
  virtual bool IsIdle() = 0;

  // Waits for all of it, unless something has gone wrong already. Empty, or what went wrong first: the op, or those
  // that it may have been, the call that failed, its code and the driver's words.
  virtual std::string Synchronize() = 0;
};

struct OpenedCudaDevice {
  std::unique_ptr<CudaDevice> device;
  std::string error;  // why there is none, and what to do
};
OpenedCudaDevice OpenCudaDevice(int index, bool or_only = false);  // see DeviceSpec

}  // namespace optserve
