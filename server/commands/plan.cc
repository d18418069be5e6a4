#include "server/commands/plan.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/opt_sizes.h"
#include "engine/planner/deployment.h"
#include "engine/tools/plan_inputs.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/commands/failure.h"
#include "server/commands/model_path.h"

namespace optserve {
namespace {

absl::StatusOr<OptConfig> FindModel(const std::string& model) {
  // A directory wins over a size, as it wins over a name elsewhere.
  std::error_code ignored;
  const absl::StatusOr<OptConfig> size = FindOptSize(model);
  if (size.ok() && !std::filesystem::is_directory(model, ignored)) return size;
  const absl::StatusOr<std::filesystem::path> directory = ResolveModel(model, HuggingFaceCache(ProcessEnvironment()));
  if (directory.ok()) return ReadModelShape(directory->string());
  return InvalidArgument("{}; {}", std::string(size.status().message()), std::string(directory.status().message()));
}

absl::StatusOr<NodeSpec> FindOrReadNode(const std::string& node) {
  if (node == "cpu") return MeasureCpuNode(/*num_threads=*/0);
  if (!node.ends_with(".json")) {
    absl::StatusOr<NodeSpec> known = FindNode(node);
    if (!known.ok()) return InvalidArgument("--node: {}; cpu is this machine", std::string(known.status().message()));
    return known;
  }
  std::ifstream file(node, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) return InvalidArgument("--node: {} cannot be read", node);
  absl::StatusOr<NodeSpec> parsed = ParseNode(text);
  if (!parsed.ok()) return InvalidArgument("--node: {}: {}", node, std::string(parsed.status().message()));
  return parsed;
}

absl::Status Run(const PlanOptions& options) {
  DeploymentRequest request{
      .model_name = options.model, .prompt_tokens = options.prompt_tokens, .output_tokens = options.output_tokens};
  if (options.dtype == "int8") {
    request.weight_bytes = 1;
  } else if (options.dtype == "float32") {
    request.weight_bytes = 4;
  } else if (options.dtype != "float16") {
    return InvalidArgument("--dtype is {}, but must be float16, float32 or int8", options.dtype);
  }
  OPTSERVE_ASSIGN_OR_RETURN(request.model, FindModel(options.model));
  OPTSERVE_ASSIGN_OR_RETURN(request.node, FindOrReadNode(options.node));
  const bool is_cpu = request.node.name.starts_with("cpu");
  if (is_cpu) request.kv_bytes = 4;  // the CPU backend's KV cache is f32
  OPTSERVE_ASSIGN_OR_RETURN(request.profile, FindEngineProfile(is_cpu ? "optserve-cpu" : "optserve-cuda"));
  OPTSERVE_ASSIGN_OR_RETURN(const Deployment deployment, PlanDeployment(request));
  const std::string text = options.json ? DeploymentJson(deployment) : DeploymentText(deployment);
  std::fputs(text.c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

int Plan(const PlanOptions& options) {
  const absl::Status status = Run(options);
  return status.ok() ? kExitOk : Fail(status);
}

}  // namespace optserve
