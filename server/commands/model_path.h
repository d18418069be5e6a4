#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

// From the MODEL of a command line to a directory. Nothing is ever downloaded.

namespace optserve {

// An environment variable's value, or nothing where it is unset. A parameter, so that tests need no setenv.
using Environment = std::function<std::optional<std::string>(std::string_view name)>;

// The environment of this process, and the names of its variables.
Environment ProcessEnvironment();
std::vector<std::string> ProcessVariables();

// The folder in which Hugging Face keeps what it fetched: HF_HUB_CACHE, else HF_HOME/hub, else
// ~/.cache/huggingface/hub. An empty variable counts as unset. Empty where HOME is unset too.
std::filesystem::path HuggingFaceCache(const Environment& environment);

// The directory of `model`: a directory that holds a config.json, or a name such as facebook/opt-125m of which `cache`
// holds the main revision (models--facebook--opt-125m/{refs/main,snapshots/<commit>}). A directory wins over a name.
//
// Errors  NotFound: neither; the text of a name gives the command that would fetch it.
//         FailedPrecondition: it is there, but is no directory, has no config.json, or the cache's entry is broken.
//
// `has_config`: its configuration is given elsewhere, so that any directory will do.
absl::StatusOr<std::filesystem::path> ResolveModel(std::string_view model, const std::filesystem::path& cache,
                                                   bool has_config = false);

// The directory to read the tokenizer from: `tokenizer` if that is given, else the model's. FailedPrecondition: the
// given one has none.
absl::StatusOr<std::filesystem::path> ResolveTokenizer(const std::string& tokenizer,
                                                       const std::filesystem::path& directory);

// What clients call it unless told otherwise: a directory's last part, wherever it was named from; a name as it is.
std::string ModelName(const std::string& model);

}  // namespace optserve
