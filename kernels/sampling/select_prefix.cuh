#pragma once

#include "kernels/common/gpu.h"

// Cuts a row by an order without sorting it: radix selection by one thread block.
//
// A prefix of the ids ordered by (key, largest first; then id, lowest first) is found by its last element. Each round
// adds up what takes part into 256 bins by the key's next eight bits and keeps the bin in which the target is reached.
// Amounts are integers, so that the order in which threads add changes nothing.
//
// Source  Alabi et al. 2012, "Fast k-Selection Algorithms for Graphics Processing Units".

namespace optserve::cuda {

using Amount = unsigned long long;  // what atomicAdd takes

// Larger floats have larger keys; -0 and 0 have the same.
GPU_DEVICE uint32_t OrderedKey(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

// An id is in the prefix if its key is larger, or the same and the id not beyond last_id.
struct Prefix {
  uint32_t key = 0;
  int last_id = 0x7fffffff;

  __device__ bool Holds(uint32_t other_key, int id) const {
    return other_key > key || (other_key == key && id <= last_id);
  }
};

struct SelectScratch {
  Amount bins[256];
  Amount rest;  // of the target, within the bin
  uint32_t digit;
  int reached;
};

// By the first warp: the bin, largest first, in which the sum reaches the target.
GPU_DEVICE void FindBin(SelectScratch& scratch, Amount target) {
  constexpr int kPerLane = 256 / 32;
  const int lane = threadIdx.x, first = 255 - lane * kPerLane;
  Amount sum = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) sum += scratch.bins[first - i];
  Amount up_to = sum;
#pragma unroll
  for (int delta = 1; delta < 32; delta *= 2) {
    const Amount before = __shfl_up_sync(gpu::kAllLanes, up_to, delta);
    if (lane >= delta) up_to += before;
  }
  if (lane == 31) scratch.reached = up_to >= target ? 1 : 0;
  Amount before = up_to - sum;
  if (before >= target || up_to < target) return;
  for (int i = 0; i < kPerLane; ++i) {
    const Amount amount = scratch.bins[first - i];
    if (before + amount >= target) {
      scratch.digit = static_cast<uint32_t>(first - i);
      scratch.rest = target - before;
      return;
    }
    before += amount;
  }
}

// Finds the key at which the amounts, keys largest first, reach `target` (then what is left of it in that key), or
// returns false if all of them do not. All threads of the block call it and get the same.
template <int kThreads, int kBytes, typename KeyOf, typename AmountOf>
GPU_DEVICE bool SelectKey(int size, KeyOf key_of, AmountOf amount_of, Amount& target, uint32_t& key,
                          SelectScratch& scratch) {
  key = 0;
  for (int byte = kBytes - 1; byte >= 0; --byte) {
    for (int i = threadIdx.x; i < 256; i += kThreads) scratch.bins[i] = 0;
    __syncthreads();
    for (int id = threadIdx.x; id < size; id += kThreads) {
      const uint32_t own = key_of(id);
      if (byte < kBytes - 1 && own >> (byte + 1) * 8 != key) continue;
      const Amount amount = amount_of(id);
      if (amount != 0) atomicAdd(&scratch.bins[own >> byte * 8 & 255], amount);
    }
    __syncthreads();
    if (threadIdx.x < 32) FindBin(scratch, target);
    __syncthreads();
    if (scratch.reached == 0) return false;
    key = key << 8 | scratch.digit;
    target = scratch.rest;
  }
  return true;  // the scratch may be used again: two barriers come before its next words are written
}

// The first id, lowest first, at which the amounts reach `target`; -1 if they do not. Ids below 2^24.
template <int kThreads, typename AmountOf>
GPU_DEVICE int SelectId(int size, AmountOf amount_of, Amount target, SelectScratch& scratch) {
  uint32_t key = 0;
  const auto reversed = [](int id) { return 0xffffffu - static_cast<uint32_t>(id); };
  if (!SelectKey<kThreads, 3>(size, reversed, amount_of, target, key, scratch)) return -1;
  return static_cast<int>(0xffffffu - key);
}

// The shortest prefix whose amounts reach `target`; everything if they do not.
template <int kThreads, typename KeyOf, typename AmountOf>
GPU_DEVICE Prefix SelectPrefix(int size, KeyOf key_of, AmountOf amount_of, Amount target, SelectScratch& scratch) {
  Prefix prefix;
  if (!SelectKey<kThreads, 4>(size, key_of, amount_of, target, prefix.key, scratch)) return Prefix{};
  const uint32_t key = prefix.key;
  const auto of_equals = [&](int id) { return key_of(id) == key ? amount_of(id) : Amount{0}; };
  prefix.last_id = SelectId<kThreads>(size, of_equals, target, scratch);
  return prefix;
}

// Of all threads, on all threads.
template <int kThreads, typename T, typename Combine>
GPU_DEVICE T BlockCombine(T x, Combine combine, T* of_warps) {
#pragma unroll
  for (int flip = 16; flip > 0; flip >>= 1) x = combine(x, __shfl_xor_sync(gpu::kAllLanes, x, flip));
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
  __syncthreads();
  x = of_warps[0];
  for (int i = 1; i < kThreads / 32; ++i) x = combine(x, of_warps[i]);
  __syncthreads();
  return x;
}

}  // namespace optserve::cuda
