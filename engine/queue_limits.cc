#include "engine/queue_limits.h"

#include <iterator>

#include "engine/util/status.h"

namespace optserve {
namespace {

int64_t TokensOf(const GenerateRequest& request) { return std::ssize(request.prompt); }

}  // namespace

absl::Status QueueLimits::Check(const GenerateRequest& request, int64_t free_places) const {
  const Amount limit{.requests = max_.requests + free_places, .tokens = max_.tokens};
  const int64_t tokens = TokensOf(request);
  // Is there room for it beside `used` in 1 / divisor of `factor` times the limits?
  const auto fits = [&](const Amount& used, int64_t divisor, double factor = 1.0) {
    const double part = factor / static_cast<double>(divisor);
    return static_cast<double>(used.requests + 1) <= static_cast<double>(limit.requests) * part &&
           (used.requests == 0 ||
            static_cast<double>(used.tokens + tokens) <= static_cast<double>(limit.tokens) * part);
  };
  if (fits(all_, 1)) return absl::OkStatus();
  const auto key = keys_.find(request.api_key_id);
  const bool is_new_key = key == keys_.end();
  const auto num_keys = std::ssize(keys_) + (is_new_key ? 1 : 0);
  if (fits(is_new_key ? Amount() : key->second.amount, num_keys) && fits(all_, 1, 2.0)) return absl::OkStatus();
  if (!is_new_key) {
    const auto user = key->second.users.find(request.user);
    const bool is_new_user = user == key->second.users.end();
    const auto num_users = std::ssize(key->second.users) + (is_new_user ? 1 : 0);
    // Names of users are free, so they get less beyond the limits than keys.
    if (fits(is_new_user ? Amount() : user->second, num_keys * num_users) && fits(all_, 1, 1.5)) {
      return absl::OkStatus();
    }
  }
  return ResourceExhausted(
      "the queue is full: {} requests with {} prompt tokens wait, {} of them of this key; try later", all_.requests,
      all_.tokens, is_new_key ? 0 : key->second.amount.requests);
}

void QueueLimits::Add(const GenerateRequest& request) {
  const int64_t tokens = TokensOf(request);
  Change(all_, 1, tokens);
  Key& key = keys_[request.api_key_id];
  Change(key.amount, 1, tokens);
  Change(key.users[request.user], 1, tokens);
  entries_[request.id] = {.key = request.api_key_id, .user = request.user, .tokens = tokens};
}

void QueueLimits::Remove(RequestId id) {
  const auto entry = entries_.find(id);
  if (entry == entries_.end()) return;
  const int64_t tokens = entry->second.tokens;
  Change(all_, -1, -tokens);
  const auto key = keys_.find(entry->second.key);
  const auto user = key->second.users.find(entry->second.user);
  Change(key->second.amount, -1, -tokens);
  Change(user->second, -1, -tokens);
  if (user->second.requests == 0) key->second.users.erase(user);
  if (key->second.amount.requests == 0) keys_.erase(key);
  entries_.erase(entry);
}

void QueueLimits::Change(Amount& amount, int64_t requests, int64_t tokens) {
  amount.requests += requests;
  amount.tokens += tokens;
}

}  // namespace optserve
