#include <algorithm>

#include "kernels/collective/all_reduce.h"
#include "kernels/collective/peer_arena.h"

namespace optserve {
namespace {

// Where two hops of less beat one hop of more. Modelled for NVLink (two hops cost about 2 us more, a GPU sends at some
// 130 GB/s), not yet measured.
constexpr int64_t kOneShotBytes = int64_t{256} << 10;
// Of a region, for the sake of one-shot at most, and at least.
constexpr int64_t kOneShotFloats = int64_t{64} << 10;
constexpr int64_t kLeastFloats = 1024;

int64_t RoundUp4(int64_t n) { return (n + 3) / 4 * 4; }

}  // namespace

int64_t PeerArenaBytes(int64_t region_floats) {
  return kPeerHeaderBytes + int64_t{2} * kMaxPeerBlocks * region_floats * static_cast<int64_t>(sizeof(float));
}

int64_t PeerRegionFloats(int size, int64_t max_width) {
  const int64_t two_shot = PeerSlice(max_width, size) * size + RoundUp4(max_width);
  return std::max({kLeastFloats, two_shot, std::min(RoundUp4(max_width) * size, kOneShotFloats)});
}

AllReducePlan PlanAllReduce(const PeerGroup& group, int64_t rows, int64_t width, AllReduceVariant variant) {
  AllReducePlan plan;
  plan.blocks = static_cast<int>(std::clamp<int64_t>(rows, 1, group.max_blocks));
  const bool fits = RoundUp4(width) * group.size <= group.region_floats;
  const int64_t sent = rows * width * (group.size - 1) * static_cast<int64_t>(sizeof(float));
  plan.two_shot = variant == AllReduceVariant::kTwoShot || !fits ||
                  (variant == AllReduceVariant::kPlanned && group.size > 2 && sent > kOneShotBytes);
  return plan;
}

}  // namespace optserve
