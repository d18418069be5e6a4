#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/collective/peer_link.h"
#include "kernels/common/context.h"

namespace optserve {

// How many thread blocks take part at most. Block b of a rank waits for block b of the others, so all of a launch's
// blocks must be on the device at once.
inline constexpr int kMaxPeerBlocks = 64;

// What one rank's kernels know of the group. Each rank has an arena that the others write into: flags and counters,
// then regions of `region_floats` floats, two for each block, used in turn. A rank may begin its next sum, and so write
// into the others' next regions, while they still read this one; it cannot be two ahead, because the sum between ended
// only when all had begun it.
struct PeerGroup {
  int rank = 0, size = 1;
  int max_blocks = 1;  // of a launch
  int64_t region_floats = 0;
  std::byte* arenas[kMaxPeers] = {};
  const uint32_t* abort = nullptr;  // of the host; not 0: leave
  uint32_t* arrivals = nullptr;     // of the host, this rank's own
};

// Bytes of an arena, and floats of a region for rows of `max_width`.
int64_t PeerArenaBytes(int64_t region_floats);
int64_t PeerRegionFloats(int size, int64_t max_width);

struct AllReducePlan {
  int blocks = 1;
  bool two_shot = false;
};
// One-shot: every rank sends its summand to all others and sums alone: one hop, size - 1 times the bytes. Two-shot:
// each rank sums one slice and sends the sum to all: two hops, twice the bytes, whatever the size.
AllReducePlan PlanAllReduce(const PeerGroup& group, int64_t rows, int64_t width, AllReduceVariant variant);

namespace cuda {
void AllReduce(const CudaContext& ctx, const PeerGroup& group, AllReduceVariant variant, const TensorView& inout);
void AllReduceAddNorm(const CudaContext& ctx, const PeerGroup& group, AllReduceVariant variant,
                      const AddBiasResidualParams& add, const LayerNormParams* norm);
void AllGather(const CudaContext& ctx, const PeerGroup& group, const TensorView& shard, const TensorView& all);
}  // namespace cuda

}  // namespace optserve
