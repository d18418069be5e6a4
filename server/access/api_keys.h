#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

// API keys, as a file of their hashes: who has the file can check keys, not use them.
//
// One key a line, `ID SHA256 CREATED [SETTING=N ...] NAME`; the name may be empty or have spaces. Empty lines and lines
// that begin with '#' are kept by hand and ignored here.
//
//   key-5f1c09ab 9f86d081...0f00a08 2026-01-31T12:00:00Z requests_per_minute=60 Ana's notebook

namespace optserve {

using ApiKeyHash = std::array<uint8_t, 32>;

// What a key may take. 0: as much as it wants.
struct KeySettings {
  int64_t requests_per_minute = 0;
  int64_t tokens_per_minute = 0;  // of prompts and answers together
  int64_t concurrent_requests = 0;
  int64_t share_weight = 1;  // 1..1000: a key of weight 2 gets twice the service of one of weight 1, when both wait

  bool operator==(const KeySettings&) const = default;
};

struct ApiKey {
  std::string id;  // "key-" and 8 hexadecimal digits: what logs, limits and the usage ledger say
  ApiKeyHash hash{};
  std::string created;  // 2026-01-31T12:00:00Z
  KeySettings settings;
  std::string name;  // for people
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

// Changes to a key's settings, by their names in the file.
struct KeyChange {
  std::string setting;
  int64_t value = 0;
};

// InvalidArgument: there is no such setting, or its value is out of bounds.
absl::Status ApplyChanges(std::span<const KeyChange> changes, KeySettings& settings);

// The settings that are not the default, "requests_per_minute=60 share_weight=2"; may be empty.
std::string PrintSettings(const KeySettings& settings);

// Makes a key and appends it to the file, which is made (mode 0600) if there is none. InvalidArgument: a name with
// control characters, of more than 200 bytes, or that begins with a word that has a '='.
absl::StatusOr<NewApiKey> AddApiKey(const std::filesystem::path& file, std::string_view name,
                                    const KeySettings& settings = {});

// Changes a key's settings, as RevokeApiKey changes the file; the result is the key afterwards.
absl::StatusOr<ApiKey> ChangeApiKey(const std::filesystem::path& file, std::string_view id,
                                    std::span<const KeyChange> changes);

// Takes a key out of the file; the file is replaced as a whole, so a reader sees it with the key or without. NotFound:
// there is no such id.
absl::StatusOr<ApiKey> RevokeApiKey(const std::filesystem::path& file, std::string_view id);

}  // namespace optserve
