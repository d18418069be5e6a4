#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "kernels/common/tensor.h"

namespace optserve {

// A rank's view of its tensor-parallel group. All ranks make the same calls in the same order; each rank's calls come
// from its own thread and are ordered with its backend's ops.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // f32, contiguous; same bits on every rank. Summed by a binary tree over ranks, ((0 + 1) + (2 + 3)) + ..., which
  // deterministic_tp builds on: a communicator that cannot must be refused there.
  virtual void AllReduceSum(const TensorView& inout) = 0;
  virtual void AllGather(const TensorView& shard, const TensorView& all) = 0;  // all: [size, ...shard], contiguous
  virtual absl::Status Check() = 0;  // dead peer or asynchronous error; asked once a step

  // The group is at its end: every rank returns from its collective, and from all later ones, at once and without a
  // result, and Check says `why`, the first one. Any thread.
  virtual void Abort(const absl::Status& why) = 0;

  // How many times this rank has come to a point where it waits for the others: who is behind holds the others up. Any
  // thread.
  virtual uint64_t num_arrivals() const = 0;
};

// Ranks as threads of this process.
// Element r is rank r's; they share state and may outlive each other. With size 1 every call returns at once.
std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(int size);

}  // namespace optserve
