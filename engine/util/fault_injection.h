#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

// Faults on order, for tests/faults: compiled only into builds with the CMake option OPTSERVE_FAULTS, where the
// variable OPTSERVE_FAULTS of the environment says which, separated by semicolons:
//
//   kill step=12 rank=1 generation=2; nan step=30 row=0; slow from=5 ms=20
//
//   kill, segv, abort   the process ends by that signal
//   hang                the rank's thread stops for ever
//   slow                the rank takes `ms` longer
//   leak                the rank loses `ms` KiB: what tests of memory must notice
//   nan                 NaN in the KV cache of the plan's slice `row`
//   device, alloc       the rank's step fails as it does after a device fault, or for want of memory
//
// step=K: in step K, 0 while the model loads; from=K: in every step from K on; rank: 0 unless said; replica,
// generation: any unless said, counted from 0 and from 1.

namespace optserve {

struct InjectedFault {
  enum class Kind : uint8_t { kKill, kSegv, kAbort, kHang, kSlow, kLeak, kNan, kDevice, kAlloc };
  Kind kind = Kind::kKill;
  uint64_t first_step = 0;
  uint64_t last_step = 0;
  int32_t rank = 0;
  int32_t replica = -1;     // -1: any
  int32_t generation = -1;  // -1: any
  int32_t row = 0;
  int32_t ms = 0;  // kLeak: KiB
};

// Which engine process this is.
struct FaultScope {
  int32_t replica = 0;
  int32_t generation = 1;
};

#ifdef OPTSERVE_FAULTS
// Before the first step.
void SetFaultScope(int32_t replica, int32_t generation);
FaultScope CurrentFaultScope();
std::vector<InjectedFault> FaultsDue(uint64_t step, int32_t rank);
// Does it, unless it is kNan, which is the caller's. An error is what the step must fail with.
absl::Status CommitFault(const InjectedFault& fault);
#else
inline void SetFaultScope(int32_t, int32_t) {}
inline FaultScope CurrentFaultScope() { return {}; }
inline std::vector<InjectedFault> FaultsDue(uint64_t, int32_t) { return {}; }
inline absl::Status CommitFault(const InjectedFault&) { return absl::OkStatus(); }
#endif

}  // namespace optserve
