#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace optserve {

struct VerifyOptions {
  std::string model_directory;
  // A list of checksums: a name and an MD5 or SHA-256 a line, in either order, as md5sum and sha256sum write them or as
  // comma-separated values. Empty: only the names that the Hugging Face cache gives to files, which are their SHA-256.
  std::string checksum_file;
  std::string config_file;  // instead of the model's config.json; empty: that
};

struct VerifyReport {
  std::vector<std::string> problems;  // a line each, all that were found; empty if the model is whole
  int64_t bytes_read = 0;
  int32_t tensors = 0;    // looked through, every element
  int32_t checksums = 0;  // compared
};

// Whether a model is whole: structure and sizes, every tensor there and of the right shape, no NaN, no infinity, no
// number of a size that no trained OPT has, and the checksums that are known. `progress` is told bytes read and to
// read.
//
// An error only if `options` themselves are wrong; what is wrong with the model is in the report.
absl::StatusOr<VerifyReport> VerifyModel(const VerifyOptions& options,
                                         const std::function<void(int64_t, int64_t)>& progress = nullptr);

}  // namespace optserve
