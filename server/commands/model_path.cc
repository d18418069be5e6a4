#include "server/commands/model_path.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <system_error>

#include "engine/util/status.h"

namespace optserve {
namespace {

namespace fs = std::filesystem;

// A single path component as Hugging Face allows it. Excludes "." and "..", so that neither a name nor what a damaged
// refs/main says can lead out of the cache.
bool IsComponent(std::string_view text) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  return !text.empty() && text.front() != '.' && text.find_first_not_of(kAllowed) == std::string_view::npos;
}

// NAME or ORGANISATION/NAME.
bool IsRepositoryName(std::string_view model) {
  const size_t slash = model.find('/');
  if (slash == std::string_view::npos) return IsComponent(model);
  return IsComponent(model.substr(0, slash)) && IsComponent(model.substr(slash + 1));
}

absl::StatusOr<fs::path> CheckModelDirectory(const fs::path& directory, bool has_config) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    return FailedPrecondition("{} is not a directory; give the directory that holds config.json", directory.string());
  }
  if (has_config || fs::exists(directory / "config.json", error)) return directory;
  // metaseq's downloads come without one; their shapes say which OPT they are.
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    if (entry.path().extension() == ".pt") return directory;
  }
  return FailedPrecondition(
      "{} has no readable config.json, so it is not a model directory; if the weights are there, give the "
      "configuration "
      "with --model-config FILE",
      directory.string());
}

}  // namespace

Environment ProcessEnvironment() {
  return [](std::string_view name) -> std::optional<std::string> {
    const char* value = std::getenv(std::string(name).c_str());
    if (value == nullptr) return std::nullopt;
    return value;
  };
}

std::vector<std::string> ProcessVariables() {
  std::vector<std::string> names;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    names.emplace_back(text.substr(0, text.find('=')));
  }
  return names;
}

fs::path HuggingFaceCache(const Environment& environment) {
  const auto value = [&](std::string_view name) { return environment(name).value_or(""); };
  if (const std::string cache = value("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const std::string home = value("HF_HOME"); !home.empty()) return fs::path(home) / "hub";
  if (const std::string home = value("HOME"); !home.empty()) return fs::path(home) / ".cache/huggingface/hub";
  return {};
}

absl::StatusOr<fs::path> ResolveModel(std::string_view model, const fs::path& cache, bool has_config) {
  std::error_code error;
  if (!model.empty() && fs::exists(fs::path(model), error)) return CheckModelDirectory(fs::path(model), has_config);
  if (!IsRepositoryName(model)) {
    return NotFound("there is no directory '{}'; give a model directory or a name such as facebook/opt-125m", model);
  }

  std::string folder = "models--" + std::string(model);
  if (const size_t slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
  const fs::path entry = cache / folder;
  std::string commit;
  if (cache.empty() || !(std::ifstream(entry / "refs/main") >> commit)) {
    return NotFound("'{}' is neither a directory nor in the Hugging Face cache; fetch it with: hf download {}", model,
                    model);
  }
  const fs::path snapshot = entry / "snapshots" / commit;
  if (!IsComponent(commit) || !fs::is_directory(snapshot, error)) {
    return FailedPrecondition("the Hugging Face cache's entry of '{}' is broken; fetch it again with: hf download {}",
                              model, model);
  }
  return CheckModelDirectory(snapshot, has_config);
}

absl::StatusOr<fs::path> ResolveTokenizer(const std::string& tokenizer, const fs::path& directory) {
  if (tokenizer.empty()) return directory;
  std::error_code error;
  if (fs::exists(fs::path(tokenizer) / "vocab.json", error) || fs::exists(fs::path(tokenizer) / "merges.txt", error)) {
    return fs::path(tokenizer);
  }
  return FailedPrecondition("--tokenizer is '{}', but there is no vocab.json in it", tokenizer);
}

std::string ModelName(const std::string& model) {
  std::error_code error;
  const fs::path directory = fs::canonical(model, error);
  return error ? model : directory.filename().string();
}

}  // namespace optserve
