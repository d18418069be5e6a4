#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "engine/tools/measurement.h"
#include "engine/tools/probe.h"

namespace optserve {

// Whole steps of an OPT-125M in f16 with random weights, on one rank with `num_threads` threads: decoding at batch 1, 8
// and 32 with contexts of 64 to 128 tokens, and a prompt of 1,024 tokens. Greedy sampling is part of every step.
absl::StatusOr<std::vector<Measurement>> BenchModel(MachineProbe& probe, int num_threads, int repetitions);

}  // namespace optserve
