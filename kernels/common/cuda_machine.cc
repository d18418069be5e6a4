#include "kernels/common/cuda_machine.h"

namespace optserve {
namespace {

constexpr int kOldestSm = 70;

std::string VersionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

std::string WhyNoDevice(const CudaMachine& machine, int index) {
  if (machine.driver == 0) return "no NVIDIA driver is loaded; install one, or use --device cpu";
  switch (machine.state) {
    case CudaMachine::State::kReady:
      break;
    case CudaMachine::State::kDriverTooOld:
      return "the NVIDIA driver knows CUDA " + VersionText(machine.driver) + " and this build needs " +
             VersionText(machine.runtime) + "; update the driver, or use the CUDA 12 build";
    case CudaMachine::State::kFabricManagerMissing:
      return "the GPUs are not ready (error 802): start NVIDIA's Fabric Manager, which NVSwitch machines need";
    case CudaMachine::State::kNoDevice:
      return "this machine has no NVIDIA GPU that this process may use; use --device cpu, or see CUDA_VISIBLE_DEVICES";
    case CudaMachine::State::kOther:
      return "the GPUs cannot be counted: " + machine.words;
  }
  if (index < machine.count) return "";
  // A process sees one such part, whatever CUDA_VISIBLE_DEVICES says.
  if (machine.first_name.find(" MIG ") != std::string::npos) {
    return machine.first_name +
           " is a part of a GPU (MIG), and a process sees only one of them; use a tensor_parallel_size of 1, or turn "
           "MIG "
           "off: nvidia-smi -mig 0";
  }
  return "a rank needs GPU " + std::to_string(index) + " for itself and there are " + std::to_string(machine.count) +
         "; lower tensor_parallel_size to at most " + std::to_string(machine.count) +
         ", or spread the ranks over more machines (--engine-launcher)";
}

std::string WhyNotUsable(const std::string& name, int sm_version, int code_version) {
  const std::string has =
      name + " has compute capability " + std::to_string(sm_version / 10) + "." + std::to_string(sm_version % 10);
  if (sm_version < kOldestSm) return has + "; 7.0 or newer is needed";
  if (code_version == 0)
    return has +
           ", for which this build has no kernels; the preset cuda12 builds them for V100 to H100, cuda for T4 and "
           "newer";
  return "";
}

}  // namespace optserve
