#include "kernels/common/cpu_context.h"

#include <sched.h>
#include <unistd.h>

#include <fstream>
#include <new>
#include <string>
#include <thread>

#include "kernels/common/check.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace optserve {
namespace {

// CPUs that this process may run on: a container's cpuset or taskset is honoured.
int CountCpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  const int count = static_cast<int>(std::thread::hardware_concurrency());
  return count > 0 ? count : 1;
}

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

}  // namespace

CpuIsa DetectCpuIsa() {
#if defined(__x86_64__)
  // __builtin_cpu_supports also asks whether the operating system saves the registers. F16C has no name there in every
  // compiler; it uses the registers of AVX.
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  if (!f16c || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return CpuIsa::kPortable;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? CpuIsa::kAvx512 : CpuIsa::kAvx2;
#else
  return CpuIsa::kPortable;
#endif
}

DeviceInfo DetectCpu(int num_threads) {
  DeviceInfo info;
  info.name = CpuName();
  info.num_threads = num_threads > 0 ? num_threads : CountCpus();
  info.isa = DetectCpuIsa();
  info.memory_bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  return info;
}

CpuContext::CpuContext(const DeviceInfo& device)
    : info(device),
      pool(device.num_threads),
      scratch_(static_cast<std::byte*>(::operator new(device.num_threads* kScratchBytes, std::align_val_t(64)))) {
  OPTSERVE_CHECK(device.isa <= DetectCpuIsa())
      << "this machine lacks the instructions of isa " << static_cast<int>(device.isa);
}

void CpuContext::FreeAligned::operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t(64)); }

}  // namespace optserve
