#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/common/half.h"

// Runs CUDA kernels on the CPU, one fiber per CUDA thread. Tests only; kernels see it through kernels/common/gpu.h.
//
// Blocks run one after another, in an order that is random from a seed, and so do the threads of a block; a thread runs
// until it reaches a barrier, a warp operation or an atomic. Wrong synchronisation is an error that names the place:
// README.md lists what is found. Errors are thrown as Error from the launch.
//
// Launches of several threads of the host run at the same time, as on several GPUs; in check builds one after another.

namespace optserve::emulator {

using Place = std::source_location;

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The vector types of CUDA that kernels use.
struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  Dim3(unsigned x_in = 1, unsigned y_in = 1, unsigned z_in = 1) : x(x_in), y(y_in), z(z_in) {}  // NOLINT: as CUDA's
};
struct alignas(16) Uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) Uint2 {
  uint32_t x, y;
};

// From OPTSERVE_EMULATOR_*, read once; tests may change it between launches.
struct Config {
  uint64_t seed = 2;              // _SEED: 0 threads and blocks in order, 1 in reverse, others random
  std::string drop;               // _DROP=file:line: the barrier written there does nothing
  bool list = false;              // _LIST=1: prints every barrier that ran, at exit
  int async_copy = 2;             // _ASYNC_COPY: 0 copies when issued, 1 now or at the wait, 2 poison until the wait
  size_t max_shared = 96 * 1024;  // bytes of a block: a V100's
};
Config& config();

// The running CUDA thread.
struct Thread {
  Dim3 thread, block, block_dim, grid_dim;
  int index = 0;  // in the block
  int lane = 0;
  int warp = 0;
};
extern constinit thread_local Thread* current;

// A device's queue. Work runs when it is queued, or later, as on a GPU; while the queue captures, it is kept instead,
// with copies of a kernel's parameters.
struct Queued {
  const void* kernel = nullptr;  // nullptr: a matrix product, or a collective of a library
  std::function<void()> run;
};
struct Stream {
  std::vector<Queued>* captured = nullptr;           // while it captures
  std::function<void(std::function<void()>)> later;  // hands work to who runs it later; empty: it runs at once
  bool is_next_refused = false;                      // what comes next is lost

  // All that is inline here is also called by libraries that the program loads.
  void Take(Queued work) {
    if (std::exchange(is_next_refused, false)) return;
    if (captured != nullptr) return captured->push_back(std::move(work));
    if (later) return later(std::move(work.run));
    work.run();
  }
};
// On `stream`, a Stream; nullptr: at once.
void Queue(void* stream, const void* kernel, std::function<void()> run);

// What the devices of this process were asked for, all together, since it began.
struct Totals {
  std::atomic<int64_t> launches = 0;  // kernels and products, those of graphs not among them
  std::atomic<int64_t> graph_launches = 0;
  std::atomic<int64_t> allocations = 0;
  std::atomic<int64_t> copies = 0;            // between host and device
  std::atomic<int64_t> synchronisations = 0;  // the host has waited, for an event or for everything
  // Kernels in the order of their launches, while a test wants them, which has a single device then.
  std::vector<const void*>* log = nullptr;
};
Totals& totals();

void RunGrid(Dim3 grid, Dim3 block, size_t shared_bytes, void (*body)(void*), void* closure, size_t closure_bytes);

void* DynamicShared();
void* StaticShared(const void* key, size_t bytes, const char* name);

enum class BarrierKind { kSync, kAnd, kOr, kCount };
int BlockBarrier(int predicate, BarrierKind kind, Place place);

// The last lane to arrive performs the operation for all of them.
using WarpOperation = void (*)(void** lane_arguments, unsigned mask);
void Collective(const char* what, unsigned mask, void* argument, WarpOperation operation, bool orders_memory,
                Place place);

void AsyncCopy(void* dst, const void* src, unsigned bytes, unsigned valid_bytes, Place place);
void AsyncCopyCommit();
void AsyncCopyWait(int groups_left);

void AtomicBegin(const void* at, size_t bytes);
void AtomicEnd(const void* at);
void ThreadFence();
// Words through which launches on several threads of the host, and the host, wait for each other: before a look at one,
// between two looks, and after writing one.
void LookAtWord();
void PollAgain();
void WordWritten();
[[noreturn]] void Fail(const std::string& message);

// Device memory, poisoned with 0xff: NaN in floats and halves, -1 in integers.
void* Allocate(size_t bytes, const char* name, bool shared = false);  // shared: of a block
void Free(void* memory);
// Any access by a kernel is an error (under AddressSanitizer and in check builds): KV slots that nobody owns.
void Forbid(const void* memory, size_t bytes, bool forbidden);
// The checker's view of an access of the running thread; nothing outside check builds.
void CheckAccess(const void* at, size_t bytes, bool write, bool atomic = false, bool aligned = false);
bool IsCheckBuild();

// ---------------------------------------------------------------- warp operations

template <typename T>
struct Shuffled {
  T value, result;
  int source;
};
template <typename T>
T Shuffle(const char* what, unsigned mask, T value, int source, Place place) {
  Shuffled<T> argument{value, value, source};
  Collective(
      what, mask, &argument,
      [](void** lanes, unsigned present) {
        for (int i = 0; i < 32; ++i) {
          if ((present >> i & 1) == 0) continue;
          auto* me = static_cast<Shuffled<T>*>(lanes[i]);
          if (me->source < 0) continue;  // beyond the segment: keeps its own
          if ((present >> me->source & 1) == 0) {
            Fail("shuffle reads lane " + std::to_string(me->source) + ", which does not take part");
          }
          me->result = static_cast<Shuffled<T>*>(lanes[me->source])->value;
        }
      },
      false, place);
  return argument.result;
}

struct Voted {
  unsigned value, result;
};
void BallotLanes(void** lanes, unsigned mask);

// Fragments in registers, as the PTX manual lays them out. f16 in, f32 sums.
struct MmaArgument {
  float* d;
  const uint32_t *a, *b;
};
void MmaM16N8K16(void** lanes, unsigned mask);  // sm_80
template <bool kRowB>
void MmaM8N8K4(void** lanes, unsigned mask);  // sm_70; A by rows, B by rows or by columns
struct LdmatrixArgument {
  uint32_t* r;
  const void* row;
};
template <bool kTranspose>
void LdmatrixX4(void** lanes, unsigned mask);  // sm_75

// WMMA 32 x 8 x 16: of a lane, row l of c and a, and quarter l % 4 of column l / 4 of b.
struct WmmaArgument {
  float* c;
  const F16 *a, *b;
};
void WmmaM32N8K16(void** lanes, unsigned mask);  // sm_70
// All lanes of a warp are about to load or store one matrix: at the same address and stride, which are aligned.
void UseMatrix(const char* what, const void* at, int stride, size_t element, Place place);

template <typename T, typename F>
T ReadModifyWrite(T* at, F change) {
  AtomicBegin(at, sizeof(T));
  const T old = *at;
  *at = change(old);
  AtomicEnd(at);
  return old;
}

}  // namespace optserve::emulator

// ---------------------------------------------------------------- what CUDA C++ calls it

#define OPTSERVE_PLACE optserve::emulator::Place place = optserve::emulator::Place::current()
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static_assert(false, "use GPU_SHARED or GPU_DYNAMIC_SHARED");
#define threadIdx (::optserve::emulator::current->thread)
#define blockIdx (::optserve::emulator::current->block)
#define blockDim (::optserve::emulator::current->block_dim)
#define gridDim (::optserve::emulator::current->grid_dim)

using dim3 = optserve::emulator::Dim3;
using uint4 = optserve::emulator::Uint4;
using uint2 = optserve::emulator::Uint2;
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }

using std::max;
using std::min;

inline void __syncthreads(OPTSERVE_PLACE) {
  optserve::emulator::BlockBarrier(0, optserve::emulator::BarrierKind::kSync, place);
}
inline int __syncthreads_or(int p, OPTSERVE_PLACE) {
  return optserve::emulator::BlockBarrier(p, optserve::emulator::BarrierKind::kOr, place);
}
inline int __syncthreads_count(int p, OPTSERVE_PLACE) {
  return optserve::emulator::BlockBarrier(p, optserve::emulator::BarrierKind::kCount, place);
}
inline void __syncwarp(unsigned mask = ~0u, OPTSERVE_PLACE) {
  int nothing = 0;
  optserve::emulator::Collective(
      "__syncwarp", mask, &nothing, [](void**, unsigned) {}, true, place);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, OPTSERVE_PLACE) {
  const int lane = optserve::emulator::current->lane;
  return optserve::emulator::Shuffle("__shfl_sync", mask, value, (lane & ~(width - 1)) + (source & (width - 1)), place);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32, OPTSERVE_PLACE) {
  const int lane = optserve::emulator::current->lane, source = lane ^ flip;
  const bool beyond = (source & ~(width - 1)) > (lane & ~(width - 1));
  return optserve::emulator::Shuffle("__shfl_xor_sync", mask, value, beyond ? -1 : source, place);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, OPTSERVE_PLACE) {
  const int lane = optserve::emulator::current->lane;
  const bool beyond = (lane & (width - 1)) < static_cast<int>(delta);
  return optserve::emulator::Shuffle("__shfl_up_sync", mask, value, beyond ? -1 : lane - static_cast<int>(delta),
                                     place);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, OPTSERVE_PLACE) {
  optserve::emulator::Voted vote{predicate != 0, 0};
  optserve::emulator::Collective("__ballot_sync", mask, &vote, optserve::emulator::BallotLanes, false, place);
  return vote.result;
}
template <typename T, typename U>
T atomicAdd(T* at, U value) {
  return optserve::emulator::ReadModifyWrite(at, [&](T old) { return static_cast<T>(old + static_cast<T>(value)); });
}
inline unsigned atomicInc(unsigned* at, unsigned limit) {
  return optserve::emulator::ReadModifyWrite(at, [&](unsigned old) { return old >= limit ? 0u : old + 1; });
}
template <typename T, typename U>
T atomicMin(T* at, U value) {
  return optserve::emulator::ReadModifyWrite(at, [&](T old) { return std::min(old, static_cast<T>(value)); });
}
inline void __threadfence() { optserve::emulator::ThreadFence(); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float __uint_as_float(uint32_t x) {
  float value;
  std::memcpy(&value, &x, 4);
  return value;
}
