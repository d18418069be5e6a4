#pragma once

#include <cstdint>

#include "kernels/common/tensor.h"
#include "kernels/norm/layer_norm.h"

namespace optserve {

inline constexpr int kMaxPeers = 16;

enum class AllReduceVariant : uint8_t { kPlanned, kOneShot, kTwoShot };

struct PeerOptions {
  int64_t max_width = 0;                                  // of rows that are summed and normalised
  AllReduceVariant variant = AllReduceVariant::kPlanned;  // tests force one
};

// One GPU's end of a group of up to kMaxPeers GPUs of this process that write into each other's memory: all-reduce and
// all-gather as kernels of our own, for the small messages of a decode step. All ranks make the same calls in the same
// order, each from its own thread; calls are queued behind the device's other work and return at once.
//
// Sums are taken over a binary tree of ranks, ((0 + 1) + (2 + 3)) + ..., which gives the same bits on every rank.
class PeerLink {
 public:
  virtual ~PeerLink() = default;

  virtual void AllReduce(const TensorView& inout) = 0;  // f32, contiguous
  // x += sum of `partial` over ranks + bias; with a norm, whose x is add.x, also norm.out = Norm(x). The bits of
  // AllReduce and then AddBiasResidual(Norm), in one launch.
  virtual void AllReduceAddNorm(const AddBiasResidualParams& add, const LayerNormParams* norm) = 0;
  virtual void AllGather(const TensorView& shard, const TensorView& all) = 0;  // f32 or i32, contiguous

  // Ends all calls of all ranks, under way and later, without a result. Any thread.
  virtual void Abort() = 0;
  // How many calls this rank's GPU has begun. Any thread.
  virtual uint64_t num_arrivals() const = 0;
};

}  // namespace optserve
