#include "kernels/backend_cpu.h"
#include "kernels/common/cpu_context.h"

namespace optserve {

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const DeviceSpec& spec) {
  if (spec.kind == DeviceKind::kCuda) {
    return absl::FailedPreconditionError("this build has no CUDA backend; use --device cpu");
  }
  return MakeCpuBackend(DetectCpu(spec.num_threads));
}

}  // namespace optserve
