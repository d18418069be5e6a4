#include <algorithm>
#include <charconv>
#include <set>

#include "server/doctor/doctor.h"

// Driver and GPUs, each on its own.

namespace optserve {
namespace {

constexpr int32_t kMinCudaVersion = 12000;  // what the CUDA kernels are built with: any driver of CUDA 12
constexpr int32_t kMinComputeCapability = 70;
constexpr std::string_view kNvidiaVendor = "0x10de";

// "0, 3, 5" of the GPUs for which `is_so`.
template <typename Predicate>
std::string Which(const std::vector<GpuFacts>& gpus, Predicate is_so) {
  std::string list;
  for (size_t i = 0; i < gpus.size(); ++i) {
    if (is_so(gpus[i])) list += fmt::format("{}{}", list.empty() ? "" : ", ", i);
  }
  return list;
}

bool HasNvidiaCard(const HostFiles& host) {
  return std::ranges::any_of(host.List("sys/bus/pci/devices"), [&](const std::string& device) {
    const std::string folder = "sys/bus/pci/devices/" + device;
    // 0x0302.. are 3D controllers, 0x0300.. VGA; an NVSwitch or an audio function is no GPU.
    return host.Read(folder + "/vendor") == std::string(kNvidiaVendor) &&
           host.Read(folder + "/class").value_or("").starts_with("0x03");
  });
}

void NoDriver(const DoctorRequest& request, const absl::Status& why, Findings& findings) {
  const bool wants_gpu = request.config.engine.device == DeviceChoice::kCuda;
  if (!absl::IsNotFound(why)) {
    findings.Fail("driver", std::string(why.message()),
                  "reboot the node, or reload the driver: rmmod and modprobe nvidia");
  } else if (HasNvidiaCard(request.host)) {
    findings.Fail("driver", "there is an NVIDIA GPU and no driver's library", "install NVIDIA's driver, 525 or newer");
  } else if (wants_gpu) {
    findings.Fail("driver", "--device cuda, and this machine has no NVIDIA GPU", "serve with --device cpu");
  } else {
    findings.Ok("driver", "no NVIDIA GPU: the model runs on the CPU");
  }
}

void CheckVersions(const GpuNodeFacts& node, Findings& findings) {
  const std::string text = fmt::format("driver {}, CUDA {}.{}", node.driver_version, node.cuda_version / 1000,
                                       node.cuda_version % 1000 / 10);
  if (node.cuda_version < kMinCudaVersion) {
    findings.Fail("driver", text + ": CUDA 12 is needed", "install driver 525 or newer");
  } else {
    findings.Ok("driver", text);
  }
}

// Of all GPUs those that CUDA_VISIBLE_DEVICES names by number, in its order.
GpuNodeFacts Visible(const GpuNodeFacts& node, const std::string& list, bool& is_understood) {
  GpuNodeFacts visible = {.driver_version = node.driver_version, .cuda_version = node.cuda_version};
  std::vector<size_t> indices;
  is_understood = true;
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    size_t index = 0;
    const auto [stop, error] = std::from_chars(list.data() + begin, list.data() + end, index);
    is_understood &= error == std::errc() && stop == list.data() + end;
    if (!is_understood || index >= node.gpus.size()) break;  // CUDA too takes what is before a wrong number
    indices.push_back(index);
    begin = end + 1;
  }
  for (const size_t a : indices) {
    visible.gpus.push_back(node.gpus[a]);
    visible.peer_access.emplace_back();
    visible.nvlink.emplace_back();
    for (const size_t b : indices) {
      visible.peer_access.back().push_back(node.peer_access[a][b]);
      visible.nvlink.back().push_back(node.nvlink[a][b]);
    }
  }
  return visible;
}

void CheckCount(const DoctorRequest& request, const GpuNodeFacts& node, Findings& findings) {
  const ServerConfig& config = request.config;
  const int64_t needed = int64_t{config.engine.tensor_parallel_size} * config.replicas;
  const auto count = static_cast<int64_t>(node.gpus.size());
  std::set<std::string> names;
  for (const GpuFacts& gpu : node.gpus) names.insert(gpu.name);
  const std::string what = fmt::format("{} x {}", count, fmt::join(names, " and "));
  if (count < needed) {
    findings.Fail("gpus",
                  fmt::format("{} visible, {} needed: --tensor-parallel-size {} x --replicas {}", count, needed,
                              config.engine.tensor_parallel_size, config.replicas),
                  request.visible_devices.has_value()
                      ? "name more GPUs in CUDA_VISIBLE_DEVICES, or use fewer ranks"
                      : "use fewer ranks, or find the GPUs that are missing: nvidia-smi -L");
  } else if (names.size() > 1) {
    findings.Warn("gpus", what + ": the slowest sets the pace", "serve on GPUs of one kind: CUDA_VISIBLE_DEVICES");
  } else {
    findings.Ok("gpus", what);
  }
}

// One line: OK, or which GPUs `is_so` and what to do.
template <typename Predicate>
void CheckEach(const std::vector<GpuFacts>& gpus, std::string_view check, std::string_view well, Verdict verdict,
               std::string_view ill, std::string_view fix, Predicate is_so, Findings& findings) {
  const std::string which = Which(gpus, is_so);
  if (which.empty()) {
    findings.Ok(check, std::string(well));
  } else if (verdict == Verdict::kWarn) {
    findings.Warn(check, fmt::format("{}: GPU {}", ill, which), std::string(fix));
  } else {
    findings.Fail(check, fmt::format("{}: GPU {}", ill, which), std::string(fix));
  }
}

void CheckHealth(const std::vector<GpuFacts>& gpus, Findings& findings) {
  CheckEach(
      gpus, "ecc", "on, or not there to be off", Verdict::kWarn, "off: a flipped bit would show in no log",
      "nvidia-smi -e 1, then reboot", [](const GpuFacts& g) { return g.ecc == false; }, findings);
  CheckEach(
      gpus, "ecc_errors", "no uncorrected error since the driver was loaded", Verdict::kFail,
      "uncorrected memory errors since the driver was loaded", "nvidia-smi -r, and replace it if they come again",
      [](const GpuFacts& g) { return g.uncorrected_errors > 0; }, findings);
  CheckEach(
      gpus, "remap_failed", "spare memory is left", Verdict::kFail, "broken memory that could not be remapped",
      "take the GPU out of service and have it replaced", [](const GpuFacts& g) { return g.repairs.has_failed; },
      findings);
  CheckEach(
      gpus, "remap_pending", "no memory waits to be remapped or retired", Verdict::kWarn,
      "broken memory is in use until the next reset", "nvidia-smi -r, or reboot",
      [](const GpuFacts& g) { return g.repairs.is_pending; }, findings);
}

void CheckSettings(const DoctorRequest& request, const std::vector<GpuFacts>& gpus, Findings& findings) {
  CheckEach(
      gpus, "compute_capability", "7.0 or newer", Verdict::kFail, "older than 7.0 (V100)",
      "serve on newer GPUs: CUDA_VISIBLE_DEVICES",
      [](const GpuFacts& g) { return g.compute_capability < kMinComputeCapability; }, findings);
  CheckEach(
      gpus, "compute_mode", "open to us", Verdict::kFail, "compute mode is prohibited", "nvidia-smi -c 0",
      [](const GpuFacts& g) { return g.compute_mode == ComputeMode::kProhibited; }, findings);
  CheckEach(
      gpus, "mig", "off", request.config.engine.tensor_parallel_size > 1 ? Verdict::kFail : Verdict::kWarn,
      "cut up by MIG: its parts have no peer access and less memory", "nvidia-smi -mig 0",
      [](const GpuFacts& g) { return g.mig; }, findings);
  CheckEach(
      gpus, "persistence", "on", Verdict::kWarn, "off: the first use after idling waits seconds for the driver",
      "systemctl enable --now nvidia-persistenced", [](const GpuFacts& g) { return g.persistence == false; }, findings);
  CheckEach(
      gpus, "heat", "no clock is lowered for heat", Verdict::kWarn, "clocks are lowered for heat",
      "look at fans and room: nvidia-smi -q -d TEMPERATURE", [](const GpuFacts& g) { return g.slowed_by_heat; },
      findings);
  CheckEach(
      gpus, "power_brake", "the power supply asks for nothing", Verdict::kFail,
      "clocks are lowered by the power supply's brake", "look at the power supplies: ipmitool sdr type 'Power Supply'",
      [](const GpuFacts& g) { return g.slowed_by_power_brake; }, findings);
  CheckEach(
      gpus, "power_limit", "as the maker set it", Verdict::kWarn, "power limit below the default",
      "nvidia-smi -pl WATTS, unless it is meant",
      [](const GpuFacts& g) { return g.power_limit_watts.value_or(0) < g.default_power_limit_watts.value_or(0); },
      findings);
}

// NVIDIA's numbers of what has gone wrong, in the kernel's log.
void CheckXids(const HostFiles& host, Findings& findings) {
  const std::optional<std::vector<std::string>> log = host.KernelLog();
  if (!log.has_value()) {
    findings.Warn("xid", "the kernel's log may not be read by this user", "run optserve doctor as root");
    return;
  }
  // Of programs, not of the GPU: 13, 31, 43 and 45. Everything else is the hardware's or the driver's.
  const std::set<int> of_programs = {13, 31, 43, 45};
  std::set<int> of_hardware;
  for (const std::string& line : *log) {
    const size_t at = line.find("NVRM: Xid");
    const size_t number = at == line.npos ? line.npos : line.find("): ", at);
    if (number == line.npos) continue;
    int xid = 0;
    std::from_chars(line.data() + number + 3, line.data() + line.size(), xid);
    if (!of_programs.contains(xid)) of_hardware.insert(xid);
  }
  if (of_hardware.empty()) {
    findings.Ok("xid", "the kernel's log has no fault of a GPU");
  } else {
    findings.Fail("xid", fmt::format("faults of GPUs since the node started: Xid {}", fmt::join(of_hardware, ", ")),
                  "dmesg | grep -i xid says which GPU: drain the node, reset or replace it");
  }
}

}  // namespace

GpuNodeFacts CheckGpus(const DoctorRequest& request, Findings& findings) {
  if (request.config.engine.device == DeviceChoice::kCpu) {
    findings.Ok("driver", "--device cpu: GPUs are not looked at");
    return {};
  }
  const absl::StatusOr<GpuNodeFacts> all = ReadGpuFacts(request.nvml_library);
  if (!all.ok()) {
    NoDriver(request, all.status(), findings);
    return {};
  }
  CheckVersions(*all, findings);
  GpuNodeFacts node = *all;
  if (request.visible_devices.has_value()) {
    bool is_understood = true;
    node = Visible(*all, *request.visible_devices, is_understood);
    if (!is_understood) {
      findings.Warn("visible_devices", "CUDA_VISIBLE_DEVICES has names where doctor understands numbers only",
                    "write it with numbers: nvidia-smi -L");
      node = *all;
    }
  }
  CheckCount(request, node, findings);
  CheckHealth(node.gpus, findings);
  CheckXids(request.host, findings);
  CheckSettings(request, node.gpus, findings);
  return node;
}

}  // namespace optserve
