#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "server/doctor/finding.h"
#include "server/doctor/gpu_facts.h"
#include "server/doctor/host_files.h"
#include "server/server_config.h"

// Whether a server with this configuration would run well here, found out without loading a model or touching a GPU's
// memory. Each group of checks is a file, check_*.cc, and adds a line to `findings` for each thing it looks at.

namespace optserve {

struct DoctorRequest {
  const ServerConfig& config;  // model may be empty: what needs one is left out
  HostFiles host{"/"};
  std::string nvml_library = "libnvidia-ml.so.1";
  std::optional<std::string> visible_devices;  // CUDA_VISIBLE_DEVICES
  int32_t load_seconds = 600;                  // how long reading the model from its disk may take
};

std::vector<Finding> Examine(const DoctorRequest& request);

// The groups. `gpus` are those that the server would see, in its order; empty: the CPU.
//
// Adds what is wrong with driver and GPUs, each on its own, and returns those that are visible.
GpuNodeFacts CheckGpus(const DoctorRequest& request, Findings& findings);
void CheckLinks(const DoctorRequest& request, const GpuNodeFacts& gpus, Findings& findings);
void CheckHost(const DoctorRequest& request, const GpuNodeFacts& gpus, Findings& findings);
void CheckModel(const DoctorRequest& request, const GpuNodeFacts& gpus, Findings& findings);
void CheckServing(const DoctorRequest& request, Findings& findings);

}  // namespace optserve
