#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/checkpoint/file_hash.h"
#include "engine/util/model_directory.h"

namespace optserve {

// What a file's bytes must add up to.
struct Checksum {
  std::string file;  // bare name
  HashKind kind = HashKind::kSha256;
  std::string digits;  // lower case
};

// The large files of the Hugging Face cache are named after their SHA-256. Empty for a folder that is not of it.
std::vector<Checksum> CacheChecksums(const ModelDirectory& directory);

// Reads a whole file; a line that names it if it is not what it should be.
std::optional<std::string> ProblemOf(const MappedFile& file, const Checksum& checksum);

}  // namespace optserve
