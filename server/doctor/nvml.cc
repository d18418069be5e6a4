#include <dlfcn.h>
#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/util/status_macros.h"
#include "server/doctor/gpu_facts.h"

// The few of NVML's functions that are needed, by their published names, types and numbers (nvml.h, API version 12).

namespace optserve {
namespace {

using Device = void*;
using Result = int;

constexpr Result kSuccess = 0;
constexpr Result kDriverNotLoaded = 9;
constexpr Result kGpuIsLost = 15;
constexpr Result kVersionMismatch = 18;
constexpr unsigned kUncorrected = 1;
constexpr unsigned kSinceDriverLoad = 0;
constexpr unsigned kMaxLinks = 18;
constexpr unsigned kPeerRead = 0;
constexpr unsigned kPeerNvlink = 2;
constexpr unsigned kTextBytes = 96;
constexpr unsigned long long kHeatReasons = 0x20 | 0x40;  // software's and hardware's
constexpr unsigned long long kPowerBrake = 0x80;
constexpr int64_t kMilliwatts = 1000;

struct Memory {
  unsigned long long total, free, used;
};
struct PciInfo {
  char bus_id_legacy[16];
  unsigned domain, bus, device, device_id, subsystem_id;
  char bus_id[32];
};

class Nvml {
 public:
  static absl::StatusOr<std::unique_ptr<Nvml>> Open(const std::string& library) {
    void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) return absl::NotFoundError(fmt::format("{} is not there", library));
    std::unique_ptr<Nvml> nvml(new Nvml(handle));
    const Result result = nvml->Call("nvmlInit_v2");
    nvml->is_initialised_ = result == kSuccess;
    if (result != kSuccess) return Error(result);
    return nvml;
  }

  ~Nvml() {
    if (is_initialised_) Call("nvmlShutdown");
    dlclose(handle_);
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  // A function that this driver does not have is one that fails.
  template <typename... Args>
  Result Call(const char* name, Args... args) const {
    constexpr Result kNoSuchFunction = 13;
    void* symbol = dlsym(handle_, name);
    return symbol == nullptr ? kNoSuchFunction : reinterpret_cast<Result (*)(Args...)>(symbol)(args...);
  }

  // The one number that a function says about a device.
  template <typename T>
  std::optional<T> Ask(const char* name, Device device) const {
    T value{};
    return Call(name, device, &value) == kSuccess ? std::optional<T>(value) : std::nullopt;
  }

  static absl::Status Error(Result result) {
    if (result == kDriverNotLoaded) return absl::FailedPreconditionError("the driver's kernel module is not loaded");
    if (result == kVersionMismatch) {
      return absl::FailedPreconditionError("the driver's library and its kernel module are of different versions");
    }
    if (result == kGpuIsLost) return absl::FailedPreconditionError("a GPU has fallen off the bus");
    return absl::FailedPreconditionError(fmt::format("NVML says error {}", result));
  }

 private:
  explicit Nvml(void* handle) : handle_(handle) {}

  void* handle_;
  bool is_initialised_ = false;
};

// NVML writes 00000000:34:00.0, the kernel 0000:34:00.0, in small letters.
std::string KernelBusId(std::string id) {
  if (id.size() > 12) id = id.substr(id.size() - 12);
  for (char& c : id) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return id;
}

void ReadHealth(const Nvml& nvml, Device device, GpuFacts& gpu) {
  unsigned current = 0;
  unsigned pending = 0;
  if (nvml.Call("nvmlDeviceGetEccMode", device, &current, &pending) == kSuccess) gpu.ecc = current == 1;
  unsigned long long errors = 0;
  if (nvml.Call("nvmlDeviceGetTotalEccErrors", device, kUncorrected, kSinceDriverLoad, &errors) == kSuccess) {
    gpu.uncorrected_errors = static_cast<int64_t>(errors);
  }
  unsigned correctable = 0;
  unsigned uncorrectable = 0;
  unsigned is_pending = 0;
  unsigned has_failed = 0;
  if (nvml.Call("nvmlDeviceGetRemappedRows", device, &correctable, &uncorrectable, &is_pending, &has_failed) ==
      kSuccess) {
    gpu.repairs = {.is_pending = is_pending != 0, .has_failed = has_failed != 0};
  } else if (const auto pages = nvml.Ask<unsigned>("nvmlDeviceGetRetiredPagesPendingStatus", device)) {
    gpu.repairs.is_pending = *pages != 0;
  }
}

void ReadSettings(const Nvml& nvml, Device device, GpuFacts& gpu) {
  unsigned current = 0;
  unsigned pending = 0;
  if (nvml.Call("nvmlDeviceGetMigMode", device, &current, &pending) == kSuccess) gpu.mig = current == 1;
  if (const auto mode = nvml.Ask<unsigned>("nvmlDeviceGetComputeMode", device)) {
    gpu.compute_mode = static_cast<ComputeMode>(*mode);
  }
  if (const auto on = nvml.Ask<unsigned>("nvmlDeviceGetPersistenceMode", device)) gpu.persistence = *on == 1;
  if (const auto why = nvml.Ask<unsigned long long>("nvmlDeviceGetCurrentClocksThrottleReasons", device)) {
    gpu.slowed_by_heat = (*why & kHeatReasons) != 0;
    gpu.slowed_by_power_brake = (*why & kPowerBrake) != 0;
  }
  if (const auto limit = nvml.Ask<unsigned>("nvmlDeviceGetPowerManagementLimit", device)) {
    gpu.power_limit_watts = *limit / kMilliwatts;
  }
  if (const auto limit = nvml.Ask<unsigned>("nvmlDeviceGetPowerManagementDefaultLimit", device)) {
    gpu.default_power_limit_watts = *limit / kMilliwatts;
  }
}

GpuFacts ReadGpu(const Nvml& nvml, Device device) {
  GpuFacts gpu;
  char name[kTextBytes] = "";
  nvml.Call("nvmlDeviceGetName", device, &name[0], kTextBytes);
  gpu.name = name;
  PciInfo pci = {};
  if (nvml.Call("nvmlDeviceGetPciInfo_v3", device, &pci) == kSuccess) gpu.pci_bus_id = KernelBusId(pci.bus_id);
  int major = 0;
  int minor = 0;
  if (nvml.Call("nvmlDeviceGetCudaComputeCapability", device, &major, &minor) == kSuccess) {
    gpu.compute_capability = 10 * major + minor;
  }
  if (const auto memory = nvml.Ask<Memory>("nvmlDeviceGetMemoryInfo", device)) {
    gpu.total_bytes = static_cast<int64_t>(memory->total);
    gpu.free_bytes = static_cast<int64_t>(memory->free);
  }
  ReadHealth(nvml, device, gpu);
  ReadSettings(nvml, device, gpu);
  for (unsigned link = 0; link < kMaxLinks; ++link) {
    unsigned is_active = 0;
    if (nvml.Call("nvmlDeviceGetNvLinkState", device, link, &is_active) != kSuccess) continue;
    ++(is_active == 1 ? gpu.links_up : gpu.links_down);
  }
  return gpu;
}

std::vector<std::vector<bool>> ReadPairs(const Nvml& nvml, const std::vector<Device>& devices, unsigned what) {
  std::vector<std::vector<bool>> pairs(devices.size(), std::vector<bool>(devices.size(), true));
  for (size_t a = 0; a < devices.size(); ++a) {
    for (size_t b = 0; b < devices.size(); ++b) {
      unsigned status = 1;
      if (a == b) continue;
      pairs[a][b] =
          nvml.Call("nvmlDeviceGetP2PStatus", devices[a], devices[b], what, &status) == kSuccess && status == 0;
    }
  }
  return pairs;
}

}  // namespace

absl::StatusOr<GpuNodeFacts> ReadGpuFacts(const std::string& nvml_library) {
  OPTSERVE_ASSIGN_OR_RETURN(const std::unique_ptr<Nvml> nvml, Nvml::Open(nvml_library));
  GpuNodeFacts node;
  char version[kTextBytes] = "";
  nvml->Call("nvmlSystemGetDriverVersion", &version[0], kTextBytes);
  node.driver_version = version;
  nvml->Call("nvmlSystemGetCudaDriverVersion_v2", &node.cuda_version);
  unsigned count = 0;
  if (const Result result = nvml->Call("nvmlDeviceGetCount_v2", &count); result != kSuccess) return Nvml::Error(result);
  std::vector<Device> devices(count);
  for (unsigned i = 0; i < count; ++i) {
    const Result result = nvml->Call("nvmlDeviceGetHandleByIndex_v2", i, &devices[i]);
    if (result != kSuccess) return Nvml::Error(result);
    node.gpus.push_back(ReadGpu(*nvml, devices[i]));
  }
  node.peer_access = ReadPairs(*nvml, devices, kPeerRead);
  node.nvlink = ReadPairs(*nvml, devices, kPeerNvlink);
  return node;
}

}  // namespace optserve
