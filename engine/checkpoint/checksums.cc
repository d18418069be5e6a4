#include "engine/checkpoint/checksums.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "absl/status/statusor.h"

namespace optserve {
namespace {

constexpr size_t kSha256Digits = 64;

}  // namespace

std::vector<Checksum> CacheChecksums(const ModelDirectory& directory) {
  std::vector<Checksum> checksums;
  for (const std::string& name : directory.List()) {
    const std::optional<std::string> blob = directory.BlobName(name);
    const bool is_hash = blob && blob->size() == kSha256Digits && std::ranges::all_of(*blob, [](unsigned char c) {
                           return std::isdigit(c) != 0 || (c >= 'a' && c <= 'f');
                         });
    if (is_hash) checksums.push_back({.file = name, .digits = *blob});
  }
  return checksums;
}

std::optional<std::string> ProblemOf(const MappedFile& file, const Checksum& checksum) {
  const absl::StatusOr<std::string> hash = HashOf(file.bytes(), checksum.kind);
  if (!hash.ok()) return std::string(hash.status().message());
  if (*hash == checksum.digits) return std::nullopt;
  return fmt::format("{}: its {} is {}, but should be {}: the file is damaged, fetch it again", file.name(),
                     checksum.kind == HashKind::kMd5 ? "MD5" : "SHA-256", *hash, checksum.digits);
}

}  // namespace optserve
