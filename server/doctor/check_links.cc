#include "server/doctor/doctor.h"

// Between GPUs: the ranks of a tensor-parallel group talk twice a layer.

namespace optserve {
namespace {

// The first pair of ranks of one group for which `pairs` says no, as "0 and 5"; empty: there is none.
std::string UnconnectedPair(const std::vector<std::vector<bool>>& pairs, int64_t ranks) {
  const auto count = static_cast<int64_t>(pairs.size());
  for (int64_t begin = 0; begin + ranks <= count; begin += ranks) {
    for (int64_t a = begin; a < begin + ranks; ++a) {
      for (int64_t b = begin; b < begin + ranks; ++b) {
        if (!pairs[a][b]) return fmt::format("{} and {}", a, b);
      }
    }
  }
  return "";
}

bool IsVirtualMachine(const HostFiles& host) {
  return host.Read("proc/cpuinfo").value_or("").find(" hypervisor") != std::string::npos;
}

void CheckNvlink(const DoctorRequest& request, const GpuNodeFacts& gpus, int64_t ranks, Findings& findings) {
  int32_t up = 0;
  std::string down;
  for (size_t i = 0; i < gpus.gpus.size(); ++i) {
    up += gpus.gpus[i].links_up;
    if (gpus.gpus[i].links_down > 0) down += fmt::format("{}{}", down.empty() ? "" : ", ", i);
  }
  const std::string unconnected = UnconnectedPair(gpus.nvlink, ranks);
  if (up == 0 && IsVirtualMachine(request.host)) {
    findings.Fail("nvlink",
                  fmt::format("{} GPUs and not one NVLink: a virtual machine that was given GPUs without their links; "
                              "{} ranks would talk over PCIe",
                              gpus.gpus.size(), ranks),
                  "ask for a machine with NVLink passed through, or serve --replicas of one GPU each");
  } else if (up == 0) {
    findings.Warn("nvlink", fmt::format("no NVLink: {} ranks talk over PCIe", ranks),
                  "expect several times the latency; prefer --replicas to ranks where the model fits");
  } else if (!down.empty()) {
    findings.Fail("nvlink", fmt::format("NVLinks are down: GPU {}", down),
                  "nvidia-smi nvlink --status; reset the GPUs, and the node if that does not help");
  } else if (!unconnected.empty()) {
    findings.Warn("nvlink", fmt::format("ranks {} have no NVLink between them", unconnected),
                  "choose GPUs by nvidia-smi topo -m in CUDA_VISIBLE_DEVICES, or fewer ranks");
  } else {
    findings.Ok("nvlink", fmt::format("every two of {} ranks are connected", ranks));
  }
}

// An NVSwitch carries nothing before Fabric Manager has set it up: CUDA says error 802, "system not yet initialized".
void CheckFabricManager(const HostFiles& host, Findings& findings) {
  if (host.List("proc/driver/nvidia-nvswitch/devices").empty()) return;
  if (host.HasProcess("nv-fabricmanager")) {
    findings.Ok("fabric_manager", "runs");
  } else {
    findings.Fail("fabric_manager",
                  "this node has NVSwitches and Fabric Manager does not run: CUDA fails with error 802",
                  "systemctl enable --now nvidia-fabricmanager, of the driver's version");
  }
}

}  // namespace

void CheckLinks(const DoctorRequest& request, const GpuNodeFacts& gpus, Findings& findings) {
  if (gpus.gpus.empty()) return;
  CheckFabricManager(request.host, findings);
  const int64_t ranks = request.config.engine.tensor_parallel_size;
  if (ranks < 2) return;
  if (const std::string pair = UnconnectedPair(gpus.peer_access, ranks); !pair.empty()) {
    findings.Fail("peer_access", fmt::format("ranks {} cannot read each other's memory", pair),
                  "turn off the IOMMU or PCIe ACS for them, or use fewer ranks: nvidia-smi topo -p2p r");
  } else {
    findings.Ok("peer_access", fmt::format("between every two of {} ranks", ranks));
  }
  CheckNvlink(request, gpus, ranks, findings);
}

}  // namespace optserve
