#include "engine/checkpoint/checkpoint.h"

#include "engine/checkpoint/safetensors.h"
#include "engine/util/status.h"

namespace optserve {

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& model_directory) {
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = OpenSafetensors(model_directory);
  if (!absl::IsNotFound(checkpoint.status())) return checkpoint;
  return NotFound("{} has no weights: neither model.safetensors nor model.safetensors.index.json", model_directory);
}

}  // namespace optserve
