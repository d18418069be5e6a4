#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/collective/peer_link.h"
#include "kernels/common/cuda_context.h"

namespace optserve {

struct LinkedPeers {
  std::vector<std::unique_ptr<PeerLink>> links;  // by rank
  std::string error;                             // why there are none
};
// The contexts' devices outlive the links.
LinkedPeers LinkCudaPeers(const std::vector<const CudaContext*>& ranks, const PeerOptions& options);

}  // namespace optserve
