#include "server/access/key_quotas.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

using Clock = KeyQuotas::Clock;

// What is left of a minute's worth.
class Bucket {
 public:
  // 0: no limit. A limit that is new begins full.
  void SetLimit(int64_t per_minute, Clock::time_point now) {
    Refill(now);
    if (limit_ == 0) left_ = static_cast<double>(per_minute);
    limit_ = per_minute;
    left_ = std::min(left_, static_cast<double>(limit_));
  }

  // Seconds until `amount`, or all there can be, is there; 0: it is.
  double SecondsUntil(int64_t amount, Clock::time_point now) {
    if (limit_ == 0) return 0;
    Refill(now);
    const double missing = static_cast<double>(std::min(amount, limit_)) - left_;
    // Rounding of a refill must not ask for another second.
    return missing <= 1e-6 ? 0 : missing * 60 / static_cast<double>(limit_);
  }

  void Take(int64_t amount) { left_ -= static_cast<double>(amount); }

  void GiveBack(int64_t amount) { left_ = std::min(left_ + static_cast<double>(amount), static_cast<double>(limit_)); }

 private:
  void Refill(Clock::time_point now) {
    const double seconds = std::chrono::duration<double>(now - since_).count();
    if (seconds <= 0) return;
    left_ = std::min(left_ + seconds * static_cast<double>(limit_) / 60, static_cast<double>(limit_));
    since_ = now;
  }

  int64_t limit_ = 0;
  double left_ = 0;
  Clock::time_point since_{};
};

int WholeSeconds(double seconds) { return static_cast<int>(std::clamp(std::ceil(seconds), 1.0, 86400.0)); }

}  // namespace

class KeyQuotaState {
 public:
  explicit KeyQuotaState(std::string id) : id_(std::move(id)) {}

  void Set(const KeySettings& settings, Clock::time_point now) {
    const std::lock_guard lock(mu);
    settings_ = settings;
    requests_.SetLimit(settings.requests_per_minute, now);
    tokens_.SetLimit(settings.tokens_per_minute, now);
  }

  // All below with `mu` held.

  absl::Status AddRequest(Clock::time_point now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    if (settings_.concurrent_requests > 0 && num_running_ >= settings_.concurrent_requests) {
      // One of them ends after about that long.
      const double seconds = mean_seconds_ / static_cast<double>(settings_.concurrent_requests);
      return WithRetryAfter(ResourceExhausted("{} has {} requests running, which is its limit; try again when one ends",
                                              id_, num_running_),
                            std::min(WholeSeconds(seconds), 60));
    }
    if (const double seconds = requests_.SecondsUntil(1, now); seconds > 0) {
      return WithRetryAfter(ResourceExhausted("{} has used up its {} requests a minute; try again in {} s", id_,
                                              settings_.requests_per_minute, WholeSeconds(seconds)),
                            WholeSeconds(seconds));
    }
    requests_.Take(1);
    ++num_running_;
    return absl::OkStatus();
  }

  absl::Status TakeTokens(int64_t tokens, Clock::time_point now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    if (const double seconds = tokens_.SecondsUntil(tokens, now); seconds > 0) {
      requests_.GiveBack(1);
      return WithRetryAfter(
          ResourceExhausted("{} may use {} tokens a minute, and of those too few are left for the {} of this request "
                            "(prompt and max_tokens); try again in {} s",
                            id_, settings_.tokens_per_minute, tokens, WholeSeconds(seconds)),
          WholeSeconds(seconds));
    }
    tokens_.Take(tokens);
    return absl::OkStatus();
  }

  void End(int64_t unused_tokens, double seconds) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    tokens_.GiveBack(unused_tokens);
    --num_running_;
    mean_seconds_ = mean_seconds_ == 0 ? seconds : 0.8 * mean_seconds_ + 0.2 * seconds;
  }

  int32_t share_weight() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return static_cast<int32_t>(settings_.share_weight);
  }

  std::mutex mu;

 private:
  const std::string id_;
  KeySettings settings_ ABSL_GUARDED_BY(mu);
  Bucket requests_ ABSL_GUARDED_BY(mu);
  Bucket tokens_ ABSL_GUARDED_BY(mu);
  int64_t num_running_ ABSL_GUARDED_BY(mu) = 0;
  double mean_seconds_ ABSL_GUARDED_BY(mu) = 0;  // of the last requests
};

QuotaLease::QuotaLease(std::shared_ptr<KeyQuotaState> state, Clock::time_point begin)
    : state_(std::move(state)), begin_(begin) {
  if (state_ == nullptr) return;
  const std::lock_guard lock(state_->mu);
  share_weight_ = state_->share_weight();
}

QuotaLease::~QuotaLease() { Settle(0); }

absl::Status QuotaLease::ReserveTokens(int64_t tokens, Clock::time_point now) {
  if (state_ == nullptr) return absl::OkStatus();
  const std::lock_guard lock(state_->mu);
  if (is_settled_) return absl::OkStatus();
  OPTSERVE_RETURN_IF_ERROR(state_->TakeTokens(tokens, now));
  reserved_ = tokens;
  return absl::OkStatus();
}

void QuotaLease::Settle(int64_t used_tokens, Clock::time_point now) {
  if (state_ == nullptr) return;
  const std::lock_guard lock(state_->mu);
  if (std::exchange(is_settled_, true)) return;
  state_->End(std::max<int64_t>(reserved_ - used_tokens, 0), std::chrono::duration<double>(now - begin_).count());
}

void KeyQuotas::Replace(const std::vector<ApiKey>& keys) {
  const Clock::time_point now = Clock::now();
  const std::lock_guard lock(mu_);
  decltype(states_) next;
  for (const ApiKey& key : keys) {
    const auto found = states_.find(key.id);
    auto state = found != states_.end() ? found->second : std::make_shared<KeyQuotaState>(key.id);
    state->Set(key.settings, now);
    next.emplace(key.id, std::move(state));
  }
  states_ = std::move(next);
}

absl::StatusOr<std::unique_ptr<QuotaLease>> KeyQuotas::Admit(std::string_view key_id, Clock::time_point now) {
  std::shared_ptr<KeyQuotaState> state;
  {
    const std::lock_guard lock(mu_);
    if (const auto found = states_.find(key_id); found != states_.end()) state = found->second;
  }
  if (state != nullptr) {
    const std::lock_guard lock(state->mu);
    OPTSERVE_RETURN_IF_ERROR(state->AddRequest(now));
  }
  return std::make_unique<QuotaLease>(std::move(state), now);
}

}  // namespace optserve
