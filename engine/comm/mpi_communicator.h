#pragma once

#include <memory>

#include "engine/comm/communicator.h"
#include "engine/comm/mpi_group.h"

namespace optserve {

// Ranks as processes, one each, that hold their tensors in host memory. The same sums in the same order as between
// threads. `group` outlives the communicator.
std::unique_ptr<Communicator> MakeMpiCommunicator(MpiGroup& group);

}  // namespace optserve
