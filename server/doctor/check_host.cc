#include <sys/statvfs.h>
#include <sys/timex.h>

#include <chrono>
#include <filesystem>
#include <set>

#include "server/doctor/doctor.h"

// The machine around the GPUs.

namespace optserve {
namespace {

constexpr double kKiB = 1024.0;
constexpr double kMiB = 1024.0 * kKiB;
constexpr double kGiB = 1024.0 * kMiB;
constexpr double kMinSharedMemory = 1.0 * kGiB;  // what NCCL wants between 16 ranks, with room to spare
constexpr int64_t kMinDescriptors = 8192 + 256;  // a connection each (HttpLimits), and our own files

void CheckSharedMemory(const HostFiles& host, Findings& findings) {
  struct statvfs space = {};
  if (statvfs(host.Path("dev/shm").c_str(), &space) != 0) {
    findings.Fail("shared_memory", "there is no /dev/shm", "mount -t tmpfs tmpfs /dev/shm");
    return;
  }
  const double bytes = static_cast<double>(space.f_blocks) * static_cast<double>(space.f_frsize);
  if (bytes < kMinSharedMemory) {
    findings.Fail("shared_memory", fmt::format("/dev/shm has {:.0f} MiB; ranks exchange data there", bytes / kMiB),
                  "docker run --shm-size 8g; in Kubernetes an emptyDir of medium Memory");
  } else {
    findings.Ok("shared_memory", fmt::format("/dev/shm has {:.1f} GiB", bytes / kGiB));
  }
}

void CheckLimits(const HostFiles& host, bool has_gpus, Findings& findings) {
  const int64_t files = host.HardLimit("Max open files");
  if (files < kMinDescriptors) {
    findings.Warn("open_files", fmt::format("at most {} open files, one for each connection", files),
                  "ulimit -Hn 65536; LimitNOFILE= in the unit");
  } else {
    findings.Ok("open_files", "enough for every connection");
  }
  const int64_t locked = host.HardLimit("Max locked memory");
  if (has_gpus && locked != HostFiles::kUnlimited) {
    findings.Warn("locked_memory",
                  fmt::format("at most {:.0f} KiB may be locked, and GPUs read host memory that is",
                              static_cast<double>(locked) / kKiB),
                  "ulimit -Hl unlimited; LimitMEMLOCK=infinity in the unit");
  } else {
    findings.Ok("locked_memory", "enough");
  }
}

void CheckNuma(const HostFiles& host, const GpuNodeFacts& gpus, Findings& findings) {
  if (host.Read("proc/sys/kernel/numa_balancing").value_or("0") != "0" &&
      !host.List("sys/devices/system/node").empty() && host.Exists("sys/devices/system/node/node1")) {
    findings.Warn("numa", "the kernel moves pages between NUMA nodes while the model runs",
                  "sysctl kernel.numa_balancing=0");
    return;
  }
  std::set<std::string> unknown;
  for (const GpuFacts& gpu : gpus.gpus) {
    if (host.Read("sys/bus/pci/devices/" + gpu.pci_bus_id + "/numa_node") == "-1") unknown.insert(gpu.pci_bus_id);
  }
  if (!unknown.empty() && host.Exists("sys/devices/system/node/node1")) {
    findings.Warn("numa", fmt::format("the firmware does not say which NUMA node GPU {} is at", *unknown.begin()),
                  "turn NUMA on in the firmware's setup (SRAT); in a virtual machine pin its CPUs");
  } else {
    findings.Ok("numa", "nothing moves");
  }
}

// Certificates, logs and rate limits go by the clock.
void CheckClock(const HostFiles& host, Findings& findings) {
  std::error_code error;
  const auto built = std::filesystem::last_write_time("/proc/self/exe", error);
  if (!error && built > std::filesystem::file_time_type::clock::now() + std::chrono::hours(24)) {
    findings.Fail("clock", "it is before the day on which this program was made",
                  "set the clock: timedatectl set-ntp true");
    return;
  }
  const bool has_daemon = host.HasProcess("chronyd") || host.HasProcess("ntpd") ||
                          host.HasProcess("systemd-timesyncd") || host.Exists("run/systemd/timesync/synchronized");
  timex state = {};
  if (has_daemon || adjtimex(&state) != TIME_ERROR) {
    findings.Ok("clock", "kept in step");
  } else {
    findings.Warn("clock", "nothing keeps it in step", "timedatectl set-ntp true");
  }
}

}  // namespace

void CheckHost(const DoctorRequest& request, const GpuNodeFacts& gpus, Findings& findings) {
  CheckSharedMemory(request.host, findings);
  CheckLimits(request.host, !gpus.gpus.empty(), findings);
  CheckNuma(request.host, gpus, findings);
  CheckClock(request.host, findings);
}

}  // namespace optserve
