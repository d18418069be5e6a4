#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/access/api_keys.h"

namespace optserve {

class KeyQuotaState;

// One admitted request's part of its key's quotas; ends with Settle or its destruction. Any thread, each once.
class QuotaLease {
 public:
  using Clock = std::chrono::steady_clock;

  explicit QuotaLease(std::shared_ptr<KeyQuotaState> state, Clock::time_point begin);
  ~QuotaLease();
  QuotaLease(const QuotaLease&) = delete;
  QuotaLease& operator=(const QuotaLease&) = delete;

  // Takes what the request may need at most, prompts and answers together, from the minute's tokens. ResourceExhausted,
  // with when to try again: so many are not left; the request itself then does not count either. One that is larger
  // than a minute's tokens needs all of them. After Settle it does nothing.
  absl::Status ReserveTokens(int64_t tokens, Clock::time_point now = Clock::now());

  // The request has ended, and took so many tokens: what was reserved beyond that is given back.
  void Settle(int64_t used_tokens, Clock::time_point now = Clock::now());

  int32_t share_weight() const { return share_weight_; }

 private:
  const std::shared_ptr<KeyQuotaState> state_;  // none: a key without limits
  const Clock::time_point begin_;
  int32_t share_weight_ = 1;
  int64_t reserved_ = 0;     // under the state's lock
  bool is_settled_ = false;  // likewise
};

// How much each API key may take: requests and tokens a minute, requests at a time. Any thread.
//
// A minute's worth may be spent at once and comes back evenly, a sixtieth each second.
class KeyQuotas {
 public:
  using Clock = QuotaLease::Clock;

  // From now on the limits are those of `keys`; what their requests have taken stays taken.
  void Replace(const std::vector<ApiKey>& keys);

  // One more request of the key. ResourceExhausted, with when to try again: its requests are at a limit. Keys that are
  // not known, and the anonymous one, have no limits.
  absl::StatusOr<std::unique_ptr<QuotaLease>> Admit(std::string_view key_id, Clock::time_point now = Clock::now());

 private:
  std::mutex mu_;
  std::map<std::string, std::shared_ptr<KeyQuotaState>, std::less<>> states_ ABSL_GUARDED_BY(mu_);
};

}  // namespace optserve
