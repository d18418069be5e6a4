#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/common/cuda_device.h"

namespace optserve {

// What ops share: partial results of attention, rows on their way to f16, penalised logits.
inline constexpr size_t kCudaWorkspaceBytes = size_t{64} << 20;

// A backend on `device`. ResourceExhausted if its workspace does not fit.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(std::unique_ptr<CudaDevice> device,
                                                         size_t workspace_bytes = kCudaWorkspaceBytes);

}  // namespace optserve
