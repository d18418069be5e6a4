#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

// API keys, as a file of their hashes: who has the file can check keys, not use them.
//
// One key a line, `ID SHA256 CREATED NAME`; the name may be empty or have spaces. Empty lines and lines that begin with
// '#' are kept by hand and ignored here.
//
//   key-5f1c09ab 9f86d081...0f00a08 2026-01-31T12:00:00Z Ana's notebook

namespace optserve {

using ApiKeyHash = std::array<uint8_t, 32>;

struct ApiKey {
  std::string id;  // "key-" and 8 hexadecimal digits: what logs, limits and the usage ledger say
  ApiKeyHash hash{};
  std::string created;  // 2026-01-31T12:00:00Z
  std::string name;     // for people
};

// SHA-256. Keys are 192 random bits, so there is nothing to guess and no need for a slow hash.
ApiKeyHash HashApiKey(std::string_view secret);

// NotFound; InvalidArgument, with the line, for what is not as above or has an id twice; FailedPrecondition when others
// than the owner may write the file.
absl::StatusOr<std::vector<ApiKey>> ReadApiKeys(const std::filesystem::path& file);

struct NewApiKey {
  std::string secret;  // "sk-..."; only its hash is kept
  ApiKey key;
};

// Makes a key and appends it to the file, which is made (mode 0600) if there is none. InvalidArgument: a name with
// control characters or of more than 200 bytes.
absl::StatusOr<NewApiKey> AddApiKey(const std::filesystem::path& file, std::string_view name);

// Takes a key out of the file; the file is replaced as a whole, so a reader sees it with the key or without. NotFound:
// there is no such id.
absl::StatusOr<ApiKey> RevokeApiKey(const std::filesystem::path& file, std::string_view id);

}  // namespace optserve
