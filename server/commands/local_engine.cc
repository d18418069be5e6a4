#include "server/commands/local_engine.h"

#include <cstdint>

#include "server/commands/load_display.h"
#include "server/commands/model_path.h"

namespace optserve {

absl::StatusOr<std::filesystem::path> ModelDirectoryOf(const ServerConfig& config) {
  return ResolveModel(config.model, HuggingFaceCache(ProcessEnvironment()), !config.engine.model_config_path.empty());
}

absl::StatusOr<std::unique_ptr<EngineClient>> StartEngineHere(const ServerConfig& config,
                                                              const std::filesystem::path& directory) {
  EngineConfig engine_config = config.engine;
  engine_config.model_path = directory.string();
  LoadDisplay display(ModelName(config.model));
  absl::StatusOr<std::unique_ptr<EngineClient>> engine =
      StartLocalEngine(engine_config, [&](int64_t done, int64_t total) { display.Update(done, total); });
  display.Finish();
  return engine;
}

}  // namespace optserve
