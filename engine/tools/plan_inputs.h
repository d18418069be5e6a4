#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/model/opt_config.h"
#include "engine/planner/node.h"

// What a plan is made from when it is not in a table: this machine, and a model's directory.

namespace optserve {

// This machine's CPU as a node: memory that is available, and bandwidth and f32 multiply-adds measured now, with
// `num_threads` threads (0: all).
NodeSpec MeasureCpuNode(int num_threads);

// The shape in a model's directory. Reads config.json only.
absl::StatusOr<OptConfig> ReadModelShape(const std::string& directory);

}  // namespace optserve
