#include "server/access/access_control.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <utility>

#include "engine/util/error_details.h"

namespace optserve {
namespace {

constexpr std::chrono::minutes kWindow{1};
constexpr std::string_view kScheme = "bearer ";

// The key in "Bearer KEY"; empty if there is none.
std::string_view SecretOf(std::string_view authorization) {
  if (authorization.size() < kScheme.size()) return {};
  for (size_t i = 0; i < kScheme.size(); ++i) {
    const char c = authorization[i];
    if ((c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) != kScheme[i]) return {};
  }
  authorization.remove_prefix(std::min(authorization.find_first_not_of(' ', kScheme.size()), authorization.size()));
  return authorization;
}

// Compares with all, and all of each, so that time says nothing about how close a key was.
const ApiKey* FindKey(const std::vector<ApiKey>& keys, const ApiKeyHash& hash) {
  const ApiKey* found = nullptr;
  for (const ApiKey& key : keys) {
    if (CRYPTO_memcmp(key.hash.data(), hash.data(), hash.size()) == 0) found = &key;
  }
  return found;
}

}  // namespace

AccessControl::AccessControl(std::vector<ApiKey> keys, Options options)
    : options_(options), keys_(std::make_shared<const std::vector<ApiKey>>(std::move(keys))) {}

void AccessControl::Replace(std::vector<ApiKey> keys) {
  auto next = std::make_shared<const std::vector<ApiKey>>(std::move(keys));
  const std::lock_guard lock(mu_);
  keys_ = std::move(next);
}

absl::StatusOr<std::string> AccessControl::Authorize(std::string_view authorization, std::string_view address,
                                                     Clock::time_point now) {
  const std::string_view secret = SecretOf(authorization);
  if (secret.empty()) {
    return absl::UnauthenticatedError("an API key is needed: send the header Authorization: Bearer KEY");
  }
  std::shared_ptr<const std::vector<ApiKey>> keys;
  {
    const std::lock_guard lock(mu_);
    keys = keys_;
  }
  if (const ApiKey* key = FindKey(*keys, HashApiKey(secret))) return key->id;
  return CountBadKey(address, now);
}

absl::Status AccessControl::CountBadKey(std::string_view address, Clock::time_point now) {
  const std::lock_guard lock(mu_);
  auto found = bad_keys_.find(address);
  if (found == bad_keys_.end()) {
    if (bad_keys_.size() >= options_.max_addresses) {
      std::erase_if(bad_keys_, [&](const auto& entry) { return now - entry.second.since >= kWindow; });
    }
    if (bad_keys_.size() >= options_.max_addresses) {
      bad_keys_.erase(std::min_element(bad_keys_.begin(), bad_keys_.end(),
                                       [](const auto& a, const auto& b) { return a.second.since < b.second.since; }));
    }
    found = bad_keys_.emplace(address, BadKeys{.since = now}).first;
  }
  BadKeys& bad = found->second;
  if (now - bad.since >= kWindow) bad = {.since = now};
  if (bad.count >= options_.bad_keys_per_minute) {
    const auto left = std::chrono::duration_cast<std::chrono::seconds>(bad.since + kWindow - now).count() + 1;
    return WithRetryAfter(
        absl::ResourceExhaustedError("too many wrong API keys came from this address; try again later"),
        static_cast<int>(left));
  }
  ++bad.count;
  return absl::UnauthenticatedError("the API key is not one that is known here");
}

}  // namespace optserve
