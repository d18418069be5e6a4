#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/collective/peer_link_cuda.h"
#include "kernels/common/cuda_context.h"

// A group of ranks that add up over the memory of their GPUs, a thread for each: on emulated GPUs, or on real ones,
// where ranks share a GPU if there are fewer.

namespace optserve {

// A rank's memory. On a GPU all of it is taken before any rank starts: taking and freeing memory waits there for all
// kernels of the GPU, those of other ranks that wait for this one too. What is given out is given back in the reverse
// order. On the emulator each piece is one of its own, whose end AddressSanitizer sees.
class RankMemory {
 public:
  RankMemory(CudaDevice& device, int64_t bytes);
  ~RankMemory();
  RankMemory(const RankMemory&) = delete;
  RankMemory& operator=(const RankMemory&) = delete;

  CudaDevice& device() { return device_; }
  void* Take(int64_t bytes);
  void GiveBack(void* memory);

 private:
  CudaDevice& device_;
  int64_t bytes_, used_ = 0;
  std::byte* arena_ = nullptr;
};

// Floats in it, which end with this object.
class DeviceFloats {
 public:
  DeviceFloats(RankMemory& memory, const std::vector<float>& values);
  ~DeviceFloats() { memory_.GiveBack(data_); }
  DeviceFloats(const DeviceFloats&) = delete;
  DeviceFloats& operator=(const DeviceFloats&) = delete;

  void Set(const std::vector<float>& values);
  // Waits for the device; empty if it has failed.
  std::vector<float> Get();
  TensorView view() const { return MakeView(data_, DType::kF32, static_cast<int64_t>(size_)); }
  TensorView view(int64_t rows) const { return MakeView(data_, DType::kF32, rows, static_cast<int64_t>(size_) / rows); }

 private:
  RankMemory& memory_;
  size_t size_;
  float* data_;
};

class Ranks {
 public:
  // Launches take at most `max_blocks` blocks: those of all ranks of a GPU must be there at once.
  Ranks(int size, const PeerOptions& options, int max_blocks, int64_t memory_bytes);

  bool has_gpu() const { return !devices_.empty(); }
  int num_gpus() const { return num_gpus_; }
  const std::string& error() const { return error_; }
  int size() const { return static_cast<int>(links_.size()); }
  CudaDevice& device(int rank) { return *devices_[static_cast<size_t>(rank)]; }
  RankMemory& memory(int rank) { return *memories_[static_cast<size_t>(rank)]; }
  CudaContext& context(int rank) { return *contexts_[static_cast<size_t>(rank)]; }
  PeerLink& link(int rank) { return *links_[static_cast<size_t>(rank)]; }

  // body(rank) on a thread for each. False: no collective has ended for 60 s, and so all were aborted.
  bool Run(const std::function<void(int)>& body);

 private:
  uint64_t TotalArrivals() const;

  int num_gpus_ = 0;
  std::vector<std::unique_ptr<CudaDevice>> devices_;
  std::vector<std::unique_ptr<CudaContext>> contexts_;
  std::vector<std::unique_ptr<RankMemory>> memories_;
  std::vector<std::unique_ptr<PeerLink>> links_;
  std::string error_;
};

std::vector<float> RandomValues(int rank, int64_t count, int round);

// The sum of RandomValues of ranks [first, first + count) by a binary tree.
std::vector<float> TreeSum(int first, int count, int64_t num_values, int round);

}  // namespace optserve
