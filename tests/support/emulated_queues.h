#pragma once

#include <cstdlib>

namespace optserve {

// As long as it lives, emulated GPUs that are opened run what is queued at once, or `late`: when the host waits for it.
// A GPU may do either. See tests/cuda_emulator/emulated_device.cc.
class EmulatedQueues {
 public:
  explicit EmulatedQueues(bool late) { setenv("OPTSERVE_EMULATOR_QUEUES", late ? "2" : "0", 1); }
  ~EmulatedQueues() { unsetenv("OPTSERVE_EMULATOR_QUEUES"); }
  EmulatedQueues(const EmulatedQueues&) = delete;
  EmulatedQueues& operator=(const EmulatedQueues&) = delete;
};

}  // namespace optserve
