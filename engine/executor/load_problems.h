#pragma once

#include <functional>
#include <mutex>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "engine/config.h"
#include "engine/model/opt_weights.h"

namespace optserve {

// What --verify finds while a model loads. Any thread may add.
class LoadProblems {
 public:
  // A line that names file and tensor; once, though several ranks see it.
  void Add(std::string problem);

  // Compares the files of a model directory with the checksums that the Hugging Face cache has of them. Reads all of
  // them.
  void AddChecksums(const std::string& model_directory);

  // InvalidArgument: all problems in one line, or the first many and how to see the others.
  absl::Status Summary() const;

 private:
  mutable std::mutex mu_;
  std::set<std::string> problems_ ABSL_GUARDED_BY(mu_);
};

// Calls load(options), and if config.verify says so lets it look at every number, and beside it compares checksums:
// they need whole files, of which the ranks read pieces. Errors of load; else what was found.
absl::Status LoadAndVerify(const EngineConfig& config, bool compare_checksums, LoadOptions options,
                           const std::function<absl::Status(const LoadOptions&)>& load);

}  // namespace optserve
