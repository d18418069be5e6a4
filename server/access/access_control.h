#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "server/access/api_keys.h"

namespace optserve {

// Who may ask for completions: those with a key. Any thread; no call takes longer than a hash and a comparison with
// every key, which takes the same time whichever of them is right.
class AccessControl {
 public:
  using Clock = std::chrono::steady_clock;

  struct Options {
    int bad_keys_per_minute = 10;   // from one address; further ones are ResourceExhausted
    size_t max_addresses = 10'000;  // remembered for that; the oldest are forgotten first
  };

  AccessControl(std::vector<ApiKey> keys, Options options);

  // The id of the key in `authorization`, the value of the header ("Bearer sk-..."). Unauthenticated: there is none, or
  // it is wrong. ResourceExhausted, with when to try again: it is wrong, and too many others from `address` were. A
  // right key is right whatever came from its address before: behind one proxy nobody can lock out the others.
  absl::StatusOr<std::string> Authorize(std::string_view authorization, std::string_view address,
                                        Clock::time_point now = Clock::now());

  // From now on these are the keys.
  void Replace(std::vector<ApiKey> keys);

 private:
  struct BadKeys {
    Clock::time_point since;
    int count = 0;
  };

  absl::Status CountBadKey(std::string_view address, Clock::time_point now);

  const Options options_;
  std::mutex mu_;
  std::shared_ptr<const std::vector<ApiKey>> keys_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, BadKeys, std::less<>> bad_keys_ ABSL_GUARDED_BY(mu_);  // by address
};

}  // namespace optserve
