#include <utility>

#include "engine/comm/communicator.h"
#include "engine/comm/nccl_communicator.h"
#include "engine/util/status.h"

namespace optserve {

void Communicator::AllReduceAddNorm(const AddBiasResidualParams& add, const LayerNormParams* norm, Backend& backend) {
  AllReduceSum(add.partial);
  if (norm == nullptr) return backend.AddBiasResidual(add);
  backend.AddBiasResidualNorm(add, *norm);
}

absl::StatusOr<RankGroup> JoinRanks(std::span<Backend* const> ranks, int64_t max_width) {
  if (ranks.size() == 1 || ranks[0]->info().host_memory) {
    return RankGroup{MakeThreadCommunicators(static_cast<int>(ranks.size())), "the host's memory"};
  }
  auto peers = MakePeerCommunicators(ranks, max_width);
  if (peers.ok()) return RankGroup{*std::move(peers), "the GPUs' memory"};
  const std::string why(peers.status().message());
  auto nccl = MakeNcclCommunicators(ranks);
  if (nccl.ok()) return RankGroup{*std::move(nccl), fmt::format("{}, because {}", NcclName(), why)};
  return FailedPrecondition("several GPUs cannot work together here: {}, and {}; use a tensor_parallel_size of 1", why,
                            std::string(nccl.status().message()));
}

}  // namespace optserve
