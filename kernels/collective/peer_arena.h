#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/collective/all_reduce.h"

// Where things lie in an arena. Each block has a line of flags for each of its two hops, in which every rank has a
// word.

namespace optserve {

inline constexpr int64_t kPeerFlagBytes = int64_t{kMaxPeerBlocks} * 2 * kMaxPeers * 4;
inline constexpr int64_t kPeerEpochBytes = int64_t{kMaxPeerBlocks} * 4;  // how many sums a block has done
inline constexpr int64_t kPeerHeaderBytes = (kPeerFlagBytes + kPeerEpochBytes + 255) / 256 * 256;

// What one rank sums of a row of `width` in two-shot; the last ranks' slices may be short, or empty.
constexpr int64_t PeerSlice(int64_t width, int size) { return ((width + size - 1) / size + 3) / 4 * 4; }

}  // namespace optserve
