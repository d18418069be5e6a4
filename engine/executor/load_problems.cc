#include "engine/executor/load_problems.h"

#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "engine/checkpoint/checksums.h"
#include "engine/util/model_directory.h"
#include "engine/util/status.h"

namespace optserve {

void LoadProblems::Add(std::string problem) {
  const std::lock_guard lock(mu_);
  problems_.insert(std::move(problem));
}

void LoadProblems::AddChecksums(const std::string& model_directory) {
  const absl::StatusOr<ModelDirectory> directory = ModelDirectory::Open(model_directory);
  if (!directory.ok()) return Add(std::string(directory.status().message()));
  for (const Checksum& checksum : CacheChecksums(*directory)) {
    const absl::StatusOr<std::unique_ptr<MappedFile>> file = directory->Map(checksum.file);
    if (!file.ok()) {
      Add(std::string(file.status().message()));
    } else if (std::optional<std::string> problem = ProblemOf(**file, checksum)) {
      Add(*std::move(problem));
    }
  }
}

absl::Status LoadProblems::Summary() const {
  constexpr size_t kMostShown = 20;
  const std::lock_guard lock(mu_);
  if (problems_.empty()) return absl::OkStatus();
  std::string text;
  size_t shown = 0;
  for (const std::string& problem : problems_) {
    if (shown == kMostShown) {
      return InvalidArgument("{}; and {} problems more, which optserve verify lists", text, problems_.size() - shown);
    }
    text += (shown == 0 ? "" : "; ") + problem;
    ++shown;
  }
  return absl::InvalidArgumentError(text);
}

absl::Status LoadAndVerify(const EngineConfig& config, bool compare_checksums, LoadOptions options,
                           const std::function<absl::Status(const LoadOptions&)>& load) {
  if (!config.verify) return load(options);
  LoadProblems problems;
  options.on_problem = [&](std::string problem) { problems.Add(std::move(problem)); };
  std::thread checksums([&] {
    if (compare_checksums) problems.AddChecksums(config.model_path);
  });
  const absl::Status loaded = load(options);
  checksums.join();
  return loaded.ok() ? problems.Summary() : loaded;
}

}  // namespace optserve
