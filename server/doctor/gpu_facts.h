#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace optserve {

enum class ComputeMode { kDefault, kExclusiveThread, kProhibited, kExclusiveProcess };

// Rows of memory that were replaced by spare ones (Ampere and newer), pages that were taken out of use (before).
struct GpuRepairs {
  bool is_pending = false;  // will happen at the next reset
  bool has_failed = false;  // no spares are left
};

// One GPU, as NVML sees it. What it does not support is absent.
struct GpuFacts {
  std::string name;
  std::string pci_bus_id;           // "0000:34:00.0", as in /sys/bus/pci/devices
  int32_t compute_capability = 70;  // 10 * major + minor
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;
  ComputeMode compute_mode = ComputeMode::kDefault;
  std::optional<bool> ecc;
  int64_t uncorrected_errors = 0;  // since the driver was loaded
  GpuRepairs repairs;
  bool mig = false;
  std::optional<bool> persistence;
  bool slowed_by_heat = false;
  bool slowed_by_power_brake = false;  // the power supply asks for it
  std::optional<int64_t> power_limit_watts;
  std::optional<int64_t> default_power_limit_watts;
  int32_t links_up = 0;  // NVLinks
  int32_t links_down = 0;
};

struct GpuNodeFacts {
  std::string driver_version;  // "535.129.03"
  int32_t cuda_version = 0;    // that the driver speaks: 12020 is 12.2
  std::vector<GpuFacts> gpus;
  // [a][b]: a can read b's memory; and over NVLink.
  std::vector<std::vector<bool>> peer_access;
  std::vector<std::vector<bool>> nvlink;
};

// Asks NVML, opened by dlopen: there is no link to any NVIDIA library, and none is needed where there is no GPU.
//
// NotFound            no such library: no driver is installed
// FailedPrecondition  it is there and does not work, and what to do
absl::StatusOr<GpuNodeFacts> ReadGpuFacts(const std::string& nvml_library);

}  // namespace optserve
