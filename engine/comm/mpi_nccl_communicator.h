#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/comm/communicator.h"
#include "engine/comm/mpi_group.h"
#include "engine/comm/nccl_library.h"

namespace optserve {

// Ranks as processes, each on a GPU: NCCL adds up, and MPI notices who is missing, which NCCL does not. All ranks call
// this with the id that one of them got from MakeNcclId; it waits for them. `group` and `backend` outlive the
// communicator.
//
// When a rank cannot join, or goes meanwhile, the group ends: an error is group.status().
absl::StatusOr<std::unique_ptr<Communicator>> MakeMpiNcclCommunicator(MpiGroup& group, const nccl::UniqueId& id,
                                                                      Backend& backend);

}  // namespace optserve
