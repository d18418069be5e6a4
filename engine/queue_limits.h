#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "absl/status/status.h"
#include "engine/request.h"

namespace optserve {

// Who waits, and whether one more may. The limits bound all that wait together; but a key that has less than an even
// part of them is let in beyond them, and within a key a user that has less than an even part of the key's: whoever
// floods the queue makes only his own requests refused. Twice the limits are never passed.
//
// Not thread-safe.
class QueueLimits {
 public:
  // Requests and prompt tokens that may wait.
  QueueLimits(int64_t max_requests, int64_t max_tokens) : max_{max_requests, max_tokens} {}

  // ResourceExhausted: no more of this key and user may wait now. `free_places` start at once and need not. A prompt
  // alone is never too long.
  absl::Status Check(const GenerateRequest& request, int64_t free_places) const;

  void Add(const GenerateRequest& request);
  // It has started or ended. Unknown ids are ignored.
  void Remove(RequestId id);

  int64_t num_requests() const { return all_.requests; }
  int64_t num_tokens() const { return all_.tokens; }
  size_t num_shares() const { return keys_.size(); }

 private:
  struct Amount {
    int64_t requests = 0;
    int64_t tokens = 0;
  };
  struct Key {
    Amount amount;
    std::unordered_map<std::string, Amount> users;
  };
  struct Entry {
    std::string key;
    std::string user;
    int64_t tokens = 0;
  };

  static void Change(Amount& amount, int64_t requests, int64_t tokens);

  const Amount max_;
  Amount all_;
  std::unordered_map<std::string, Key> keys_;  // with requests that wait
  std::unordered_map<RequestId, Entry> entries_;
};

}  // namespace optserve
