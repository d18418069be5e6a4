#pragma once

#include <memory>

#include "kernels/backend.h"

namespace optserve {

// The Backend of this machine's processor. `device` is DetectCpu(num_threads), or in tests that with an older isa.
std::unique_ptr<Backend> MakeCpuBackend(const DeviceInfo& device);

}  // namespace optserve
