#pragma once

#include <memory>

#include "absl/status/status.h"
#include "engine/comm/mpi_group.h"
#include "engine/config.h"
#include "engine/executor/executor.h"

namespace optserve {

// Ranks as processes that mpirun or srun started, one each: the executor is rank 0's, and RunFollower is what the
// others do. Rank 0 sends them the engine's configuration, each plan's bytes, and when nothing is to do a question
// every second whether they are there; a rank that gives no answer for config.step_timeout_seconds is named and ends
// the group. `group` outlives the executor.
//
// Start: InvalidArgument and the like as StartLocalEngine, with the rank's name in front if it is not rank 0's.
//
// SIGTERM, blocked in all threads of the process, is how mpirun and srun say, a second before they kill it, that
// another rank has gone, and how the kernel says that they have gone themselves: the executor then asks who is still
// there, and the group is at its end.
std::unique_ptr<Executor> MakeMpiExecutor(MpiGroup& group, const EngineConfig& config);

// A rank other than 0, until rank 0 ends its executor (OK) or the group ends: an error, here or elsewhere, or silence.
absl::Status RunFollower(MpiGroup& group);

}  // namespace optserve
