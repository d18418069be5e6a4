#include "engine/comm/communicator.h"
#include "engine/util/status.h"

// In place of nccl_communicator.cc where NCCL's header is not found.

namespace optserve {

absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> MakeNcclCommunicators(std::span<Backend* const>) {
  return FailedPrecondition("this build has no NCCL");
}

}  // namespace optserve
