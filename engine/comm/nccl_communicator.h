#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/comm/communicator.h"
#include "engine/comm/nccl_library.h"
#include "kernels/backend.h"

namespace optserve {

// One rank's end of a group whose GPUs add up by NCCL, in an order of its own: the same bits on every rank, not those
// of another number of ranks. Its calls are queued behind the GPU's other work.
class NcclCommunicator : public Communicator {
 public:
  // Whether the GPU is done with all of its work, or NCCL has failed; does not wait.
  virtual bool IsDone() = 0;

  // Waits until IsDone, because whoever waits for the GPU alone waits for ever once another rank has gone.
  absl::Status Check() override = 0;
};

class NcclGroup;  // what the ranks of one process share
std::shared_ptr<NcclGroup> MakeNcclGroup();

// The name of a group that is to be made: one rank asks for it, and tells all. FailedPrecondition: NCCL is missing.
absl::StatusOr<nccl::UniqueId> MakeNcclId();

// Joins a group of `size` as `rank`; waits for all of them. The communicator ends before the backend.
// FailedPrecondition: NCCL is missing, or cannot join these GPUs, of which there must be one for each rank.
absl::StatusOr<std::unique_ptr<NcclCommunicator>> JoinNccl(const nccl::UniqueId& id, int rank, int size,
                                                           Backend& backend, std::shared_ptr<NcclGroup> group);

std::string NcclName();  // "NCCL 2.21.5", where it can be loaded

}  // namespace optserve
