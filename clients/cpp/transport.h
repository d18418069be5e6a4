#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "optserve/client/client.h"
#include "optserve/v1/completion.pb.h"

// What HTTP and gRPC each implement: one attempt at a call. Retries, pauses and the first event's part in them are
// Client's (client.cc), once for both.

namespace optserve::client {

using Clock = std::chrono::steady_clock;

// One attempt's limits; `deadline` is that of the whole call.
struct Attempt {
  Clock::time_point deadline;
  std::stop_token stop;
  std::string request_id;
  CallTimes* times = nullptr;  // may be null
};

inline void NoteSent(const Attempt& attempt) {
  if (attempt.times != nullptr) attempt.times->sent = Clock::now();
}

inline void NoteReceived(const Attempt& attempt) {
  if (attempt.times != nullptr) attempt.times->received = Clock::now();
}

// An answer that is being read, by one thread.
class EventSource {
 public:
  virtual ~EventSource() = default;
  // False at the end of a whole answer. After that or an error it is not called again.
  virtual absl::StatusOr<bool> Next(v1::CompletionEvent& event) = 0;
  // From the reading thread, between two calls of Next: what is left is not wanted.
  virtual void Cancel() = 0;
};

// Any thread, any number at once. Errors carry what the server said (error_info.h).
class Transport {
 public:
  virtual ~Transport() = default;
  virtual absl::StatusOr<v1::CompletionResponse> Complete(const v1::CompletionRequest& request,
                                                          const Attempt& attempt) = 0;
  virtual absl::StatusOr<std::unique_ptr<EventSource>> Stream(const v1::CompletionRequest& request,
                                                              const Attempt& attempt) = 0;
  virtual absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request, const Attempt& attempt) = 0;
  virtual absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request,
                                                            const Attempt& attempt) = 0;
  virtual absl::StatusOr<v1::ListModelsResponse> ListModels(const Attempt& attempt) = 0;
  virtual absl::StatusOr<std::string> Metrics(const Attempt& attempt) = 0;
  virtual absl::StatusOr<std::string> DebugSteps(const Attempt& attempt) = 0;
};

// An address taken apart.
struct Address {
  bool is_grpc = false;
  bool has_tls = false;
  std::string host;  // without brackets
  std::string port;
  std::string path;  // in front of the API's paths; no slash at its end
};

// InvalidArgument for what is not as ClientOptions::address says.
absl::StatusOr<Address> ParseAddress(const std::string& address);

absl::StatusOr<std::unique_ptr<Transport>> MakeHttpTransport(const ClientOptions& options, const Address& address);
absl::StatusOr<std::unique_ptr<Transport>> MakeGrpcTransport(const ClientOptions& options, const Address& address);

}  // namespace optserve::client
