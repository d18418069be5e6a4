#include "kernels/backend_cpu.h"
#include "kernels/common/cpu_context.h"

#if defined(OPTSERVE_CUDA)
#include "kernels/backend_cuda.h"
#endif

namespace optserve {

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const DeviceSpec& spec) {
  if (spec.kind == DeviceKind::kCpu) return MakeCpuBackend(DetectCpu(spec.num_threads));
#if defined(OPTSERVE_CUDA)
  OpenedCudaDevice opened = OpenCudaDevice(spec.index, spec.or_only);
  if (opened.device == nullptr) return absl::FailedPreconditionError(opened.error);
  return MakeCudaBackend(std::move(opened.device));
#else
  return absl::FailedPreconditionError(
      "this build has no CUDA backend; use --device cpu, or build with the preset cuda or cuda12");
#endif
}

}  // namespace optserve
