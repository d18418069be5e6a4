#pragma once

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/engine_client.h"
#include "server/server_config.h"

namespace optserve {

// Where the model of `config` lies: see ResolveModel. One without a config.json is taken if --model-config has one.
absl::StatusOr<std::filesystem::path> ModelDirectoryOf(const ServerConfig& config);

// The engine of `config` on the model in `directory`, in this process; shows how far it has loaded. Errors as
// StartLocalEngine.
absl::StatusOr<std::unique_ptr<EngineClient>> StartEngineHere(const ServerConfig& config,
                                                              const std::filesystem::path& directory);

}  // namespace optserve
