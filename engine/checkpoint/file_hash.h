#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace optserve {

enum class HashKind { kMd5, kSha256 };

// The hash in lower-case hexadecimal digits.
absl::StatusOr<std::string> HashOf(std::span<const std::byte> bytes, HashKind kind);

}  // namespace optserve
