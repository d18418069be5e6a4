#pragma once

#include <string>

namespace optserve {

// What the driver says of the machine's GPUs before one is opened.
struct CudaMachine {
  enum class State { kReady, kDriverTooOld, kFabricManagerMissing, kNoDevice, kOther };

  int driver = 0;   // the CUDA version that it knows, 12040 for 12.4; 0: none is loaded
  int runtime = 0;  // this build's
  State state = State::kReady;
  std::string words;       // the driver's own, for kOther
  int count = 0;           // GPUs that this process may use
  std::string first_name;  // of GPU 0
};

// Why rank `index` gets no GPU, and what to do; empty if it gets one.
std::string WhyNoDevice(const CudaMachine& machine, int index);

// What one GPU must have: sm_70, and kernels in this build (code_version: kernels/common/code_version.h). Empty, or why
// it is refused.
std::string WhyNotUsable(const std::string& name, int sm_version, int code_version);

}  // namespace optserve
