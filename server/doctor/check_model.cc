#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>

#include "engine/planner/deployment.h"
#include "engine/tools/plan_inputs.h"
#include "server/doctor/doctor.h"

// The model against this machine: is it there, does it fit, how long will it take to read.

namespace optserve {
namespace {

namespace fs = std::filesystem;
using std::chrono::steady_clock;

constexpr double kGB = 1e9;
constexpr double kReservedBytes = 1.5 * 1024 * 1024 * 1024;  // of a GPU, as the planner's nodes have it
constexpr int64_t kReadBytes = int64_t{1} << 30;
constexpr int64_t kBlockBytes = int64_t{4} << 20;
constexpr std::chrono::seconds kReadTime{3};
constexpr size_t kAlignment = 4096;

struct WeightFiles {
  double bytes = 0.0;
  fs::path largest;
};

WeightFiles FindWeights(const fs::path& directory) {
  WeightFiles found;
  double largest = -1.0;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, ignored)) {
    const std::string suffix = entry.path().extension();
    if (suffix != ".safetensors" && suffix != ".bin" && suffix != ".pt") continue;
    const auto bytes = static_cast<double>(entry.file_size(ignored));
    found.bytes += bytes;
    if (bytes > largest) found.largest = entry.path();
    largest = std::max(largest, bytes);
  }
  return found;
}

// Bytes per second of reading a file's beginning from its disk, past the page cache where the file system allows that;
// 0: it cannot be read.
double ReadSpeed(const fs::path& file) {
  int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  if (fd < 0) fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0.0;
  const std::unique_ptr<void, decltype(&std::free)> buffer(std::aligned_alloc(kAlignment, kBlockBytes), &std::free);
  const steady_clock::time_point begin = steady_clock::now();
  int64_t bytes = 0;
  while (bytes < kReadBytes && steady_clock::now() - begin < kReadTime) {
    const ssize_t size = read(fd, buffer.get(), kBlockBytes);
    if (size <= 0) break;
    bytes += size;
  }
  close(fd);
  const double seconds = std::chrono::duration<double>(steady_clock::now() - begin).count();
  return seconds > 0 ? static_cast<double>(bytes) / seconds : 0.0;
}

void CheckDisk(const WeightFiles& weights, int32_t load_seconds, Findings& findings) {
  const double speed = ReadSpeed(weights.largest);
  if (speed <= 0) {
    findings.Fail("disk", fmt::format("{} cannot be read", weights.largest.filename().string()),
                  "give its user the right to read it: chmod a+r");
    return;
  }
  const double seconds = weights.bytes / speed;
  const std::string text = fmt::format("{:.2f} GB at {:.2f} GB/s: reading the model takes {:.0f} s",
                                       weights.bytes / kGB, speed / kGB, seconds);
  if (seconds > load_seconds) {
    findings.Warn("disk", fmt::format("{}, and {} s are promised", text, load_seconds),
                  "keep the model on local NVMe (RAID 0 of several), not on a network's file system");
  } else {
    findings.Ok("disk", text);
  }
}

// A node of the planner that has this machine's memory.
NodeSpec NodeOf(const DoctorRequest& request, const GpuNodeFacts& gpus) {
  NodeSpec node = *FindNode("dgx2");
  if (gpus.gpus.empty()) {
    node.name = "cpu: this machine";
    node.num_devices = 1;
    node.reserved_bytes = 0.0;
    node.memory_bytes = static_cast<double>(request.host.MemInfo("MemAvailable").value_or(0));
    return node;
  }
  node.name = "this machine";
  node.num_devices = static_cast<int32_t>(gpus.gpus.size());
  node.reserved_bytes = kReservedBytes;
  int64_t least = gpus.gpus.front().free_bytes;
  for (const GpuFacts& gpu : gpus.gpus) least = std::min(least, gpu.free_bytes);
  node.memory_bytes = static_cast<double>(least);
  return node;
}

void CheckMemory(const DoctorRequest& request, const OptConfig& shape, const GpuNodeFacts& gpus, Findings& findings) {
  const bool on_cpu = gpus.gpus.empty();
  const int32_t ranks = on_cpu ? 1 : request.config.engine.tensor_parallel_size;  // on the CPU they share the memory
  DeploymentRequest plan = {.model_name = request.config.model, .model = shape, .node = NodeOf(request, gpus)};
  plan.profile = *FindEngineProfile(on_cpu ? "optserve-cpu" : "optserve-cuda");
  plan.kv_bytes = on_cpu ? 4.0 : 2.0;
  plan.weight_bytes = request.config.engine.dtype == DTypeChoice::kInt8 ? 1.0 : 2.0;
  plan.prompt_tokens = std::min(512, shape.max_positions / 2);
  plan.output_tokens = std::min(128, shape.max_positions / 4);
  const absl::StatusOr<Deployment> deployment = PlanDeployment(plan);
  if (!deployment.ok()) {
    findings.Fail("memory", std::string(deployment.status().message()), "give a model with a longer context");
    return;
  }
  const auto option = std::ranges::find(deployment->options, ranks, &DeploymentOption::tensor_parallel_size);
  if (option == deployment->options.end()) {
    std::string sizes;
    for (const DeploymentOption& other : deployment->options) {
      sizes += fmt::format("{}{}", sizes.empty() ? "" : ", ", other.tensor_parallel_size);
    }
    findings.Fail("ranks", fmt::format("the model cannot be divided into {} ranks on {} GPUs", ranks, gpus.gpus.size()),
                  "--tensor-parallel-size " + sizes);
    return;
  }
  const std::string text =
      fmt::format("weights take {:.2f} GB of {:.2f} GB that are free{}", option->weight_bytes_per_device / kGB,
                  plan.node.memory_bytes / kGB, on_cpu ? "" : " on the fullest GPU");
  if (option->kv_tokens < shape.max_positions) {
    findings.Fail("memory",
                  fmt::format("{}: room for {} tokens of KV cache, and one whole context is {}", text,
                              std::max<int64_t>(0, option->kv_tokens), shape.max_positions),
                  on_cpu ? "end other programs, or serve a smaller model"
                         : "end what else runs on the GPUs (nvidia-smi), use more ranks, or serve a smaller model");
  } else {
    findings.Ok("memory", fmt::format("{}; room for {} tokens of KV cache (modelled)", text, option->kv_tokens));
  }
}

}  // namespace

void CheckModel(const DoctorRequest& request, const GpuNodeFacts& gpus, Findings& findings) {
  if (request.config.model.empty()) return;
  const absl::StatusOr<fs::path> directory = ResolveModel(request.config.model, HuggingFaceCache(ProcessEnvironment()));
  if (!directory.ok()) {
    findings.Fail("model", std::string(directory.status().message()), "give a model's directory, or fetch it");
    return;
  }
  const absl::StatusOr<OptConfig> shape = ReadModelShape(directory->string());
  if (!shape.ok()) {
    findings.Fail("model", std::string(shape.status().message()), "fetch config.json again");
    return;
  }
  const WeightFiles weights = FindWeights(*directory);
  if (weights.bytes <= 0) {
    findings.Fail("model", "its directory has no weights: no .safetensors, .bin or .pt", "fetch the model again");
    return;
  }
  findings.Ok("model", fmt::format("{} layers, hidden size {}, {} positions", shape->num_layers, shape->hidden_size,
                                   shape->max_positions));
  CheckMemory(request, *shape, gpus, findings);
  CheckDisk(weights, request.load_seconds, findings);
}

}  // namespace optserve
