#pragma once

#include <vector>

#include "engine/tools/measurement.h"
#include "engine/tools/probe.h"
#include "kernels/common/cpu_context.h"

namespace optserve {

// Linear at the shapes of OPT-125M in f16, its weights in no cache, as a ratio to the roof: the longer of the times
// that reading the weights and doing the multiply-adds would take at the probe's rates.
std::vector<Measurement> BenchLinear(const CpuContext& ctx, MachineProbe& probe, int repetitions);

}  // namespace optserve
