#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "optserve/v1/completion.pb.h"

// A client of optserve: one interface over HTTP and gRPC. What is asked and answered are the messages of
// optserve/v1/completion.proto, whichever protocol carries them, so a field means the same and has the same bounds on
// both. Errors are absl::Status; error_info.h has what they say besides. One thing only gRPC says always: which id a
// token of a log probability is. Over HTTP TokenLogprob.token_id is -1, unless return_token_ids (for the chosen tokens)
// or return_tokens_as_token_ids (for all, in place of their texts) asks for it.
//
//   auto client = Client::Create({.address = "http://127.0.0.1:8000"});
//   optserve::v1::CompletionRequest request;
//   request.add_prompt()->set_text("Call me Ishmael.");
//   absl::Status end = (*client)->Stream(request, [](const auto& event) { std::cout << event.choices(0).text(); });

namespace optserve::client {

// The pause before attempt k + 1 is a random time up to initial_backoff * 2^(k-1), at most max_backoff; or what the
// server said (Retry-After, RetryInfo), if that is longer. Tried again are: no connection or one that broke before an
// answer, 429, 502, 503 (RESOURCE_EXHAUSTED, UNAVAILABLE), and whatever the server marks with `x-should-retry: true`;
// never what it marks `false`, and never a stream that has given an event.
struct RetryPolicy {
  int max_attempts = 3;  // 1: no second one
  std::chrono::milliseconds initial_backoff{200};
  std::chrono::milliseconds max_backoff{8000};
  // A server that asks for a longer pause than this gets none: its error is the answer.
  std::chrono::milliseconds max_retry_after{60'000};
};

struct TlsOptions {
  std::string ca_file = {};      // PEM of the authorities to believe; empty: the system's
  std::string server_name = {};  // that the certificate must be of; empty: the address's host
};

struct ClientOptions {
  // http://HOST:PORT or https://HOST:PORT, with a path in front of the API's if there is one (".../v1" is understood as
  // the openai package does); grpc://HOST:PORT or, with TLS, grpcs://HOST:PORT. HOST may be [an IPv6 address].
  std::string address = "http://127.0.0.1:8000";
  std::string api_key = {};  // sent as a bearer token; empty: none
  TlsOptions tls = {};
  RetryPolicy retry = {};
  std::chrono::milliseconds connect_timeout{5000};
  size_t max_answer_bytes = size_t{256} << 20;  // of one answer, or one event of a stream
};

// When a call left this program's hands, and when it was back in them. What lies between is the network's and the
// server's, what lies around it the library's own.
struct CallTimes {
  std::chrono::steady_clock::time_point sent = {};      // the last attempt's request was made and went to the socket
  std::chrono::steady_clock::time_point received = {};  // the last piece was there that had to be waited for
};

struct CallOptions {
  std::chrono::milliseconds timeout{
      600'000};  // of all attempts and pauses, and of a whole stream; then DeadlineExceeded
  std::stop_token stop =
      {};  // request_stop(), from any thread, ends the call with Cancelled, and the server's work on it
  std::string request_id = {};  // the server logs it; empty: the server makes one
  CallTimes* times = nullptr;   // written while the call, or its stream, goes on; outlives it
};

class EventSource;
class Transport;

// A stream of events, to be read by one thread: with Next, or as a range whose end is an error or the end.
//
//   for (const CompletionEvent& event : *stream) { ... }
//   if (!stream->status().ok()) { ... }
//
// Destroying it, or Cancel, ends the server's work on what is left.
class CompletionStream {
 public:
  explicit CompletionStream(std::unique_ptr<EventSource> source, std::optional<v1::CompletionEvent> first = {});
  CompletionStream(CompletionStream&&) noexcept;
  CompletionStream& operator=(CompletionStream&&) noexcept;
  ~CompletionStream();

  // Waits for the next event. Null at the end: status() then says whether it was a good one. The event is valid until
  // the next call.
  const v1::CompletionEvent* Next();

  // OK while events come and after a whole answer.
  const absl::Status& status() const { return status_; }

  // The stream ends with Cancelled, unless it has ended.
  void Cancel();

  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = v1::CompletionEvent;
    using difference_type = std::ptrdiff_t;
    using pointer = const value_type*;
    using reference = const value_type&;

    Iterator() = default;
    explicit Iterator(CompletionStream* stream) : stream_(stream), event_(stream->Next()) {}
    reference operator*() const { return *event_; }
    pointer operator->() const { return event_; }
    Iterator& operator++() {
      event_ = stream_->Next();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(const Iterator& other) const { return event_ == other.event_; }

   private:
    CompletionStream* stream_ = nullptr;
    pointer event_ = nullptr;
  };

  Iterator begin() { return Iterator(this); }
  Iterator end() { return {}; }

 private:
  std::unique_ptr<EventSource> source_;  // null once the stream has ended
  std::optional<v1::CompletionEvent> first_;
  v1::CompletionEvent event_;
  absl::Status status_;
};

// Any thread may call, any number at once; each call waits for its answer. Connections are kept and used again: over
// HTTP one for each call at a time, over gRPC one for all.
class Client {
 public:
  // InvalidArgument for an address that is none, or a ca_file that cannot be read. Nothing is connected yet.
  static absl::StatusOr<std::unique_ptr<Client>> Create(const ClientOptions& options);
  // With a transport of the caller's, for tests.
  Client(std::unique_ptr<Transport> transport, const RetryPolicy& retry);
  ~Client();

  absl::StatusOr<v1::CompletionResponse> Complete(const v1::CompletionRequest& request,
                                                  const CallOptions& options = {}) const;

  // Returns with the first event, or with the error that came instead.
  absl::StatusOr<CompletionStream> Stream(const v1::CompletionRequest& request, const CallOptions& options = {}) const;

  // Calls `on_event` for each event on this thread; OK after a whole answer.
  absl::Status Stream(const v1::CompletionRequest& request,
                      const std::function<void(const v1::CompletionEvent&)>& on_event,
                      const CallOptions& options = {}) const;

  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request,
                                                const CallOptions& options = {}) const;
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request,
                                                    const CallOptions& options = {}) const;
  absl::StatusOr<v1::ListModelsResponse> ListModels(const CallOptions& options = {}) const;

  // The server's metrics in Prometheus' text format. Unimplemented over gRPC, which has no such call.
  absl::StatusOr<std::string> Metrics(const CallOptions& options = {}) const;

  // optserve's last steps as the JSON of GET /debug/steps. Unimplemented over gRPC.
  absl::StatusOr<std::string> DebugSteps(const CallOptions& options = {}) const;

 private:
  std::unique_ptr<Transport> transport_;
  RetryPolicy retry_;
};

}  // namespace optserve::client
