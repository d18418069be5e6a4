#include "optserve/client/client.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <random>
#include <utility>

#include "clients/cpp/transport.h"
#include "optserve/client/error_info.h"

namespace optserve::client {
namespace {

using std::chrono::milliseconds;

// Whether another attempt may go better; see RetryPolicy.
bool IsWorthRetrying(const absl::Status& status) {
  if (const std::optional<bool> said = ErrorInfoOf(status).should_retry) return *said;
  return status.code() == absl::StatusCode::kUnavailable || status.code() == absl::StatusCode::kResourceExhausted;
}

milliseconds Pause(const RetryPolicy& policy, int attempts_made, const absl::Status& status) {
  thread_local std::minstd_rand random{std::random_device{}()};
  const int doublings = std::min(attempts_made - 1, 20);
  const int64_t limit = std::min<int64_t>(policy.max_backoff.count(), policy.initial_backoff.count() << doublings);
  const milliseconds backoff(std::uniform_int_distribution<int64_t>(0, std::max<int64_t>(limit, 0))(random));
  return std::max(backoff, ErrorInfoOf(status).retry_after.value_or(milliseconds(0)));
}

// False if `stop` came first.
bool SleepUnlessStopped(milliseconds pause, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  wake.wait_for(lock, stop, pause, [] { return false; });
  return !stop.stop_requested();
}

Attempt FirstAttempt(const CallOptions& options) {
  const Clock::time_point now = Clock::now();
  const auto longest = std::chrono::duration_cast<milliseconds>(Clock::time_point::max() - now);
  return {.deadline = now + std::min(options.timeout, longest),
          .stop = options.stop,
          .request_id = options.request_id,
          .times = options.times};
}

// `call(attempt)` until it succeeds or there is no point in another one. The last error is the answer.
template <typename Call>
auto WithRetries(const RetryPolicy& policy, const CallOptions& options, Call call) -> decltype(call(Attempt{})) {
  const Attempt attempt = FirstAttempt(options);
  for (int made = 1;; ++made) {
    if (options.stop.stop_requested()) return absl::CancelledError("the call was cancelled");
    auto result = call(attempt);
    if (result.ok() || made >= policy.max_attempts || !IsWorthRetrying(result.status())) return result;
    const milliseconds pause = Pause(policy, made, result.status());
    if (pause > policy.max_retry_after || Clock::now() + pause >= attempt.deadline) return result;
    if (!SleepUnlessStopped(pause, options.stop)) return absl::CancelledError("the call was cancelled");
  }
}

}  // namespace

CompletionStream::CompletionStream(std::unique_ptr<EventSource> source, std::optional<v1::CompletionEvent> first)
    : source_(std::move(source)), first_(std::move(first)) {}
CompletionStream::CompletionStream(CompletionStream&&) noexcept = default;
CompletionStream& CompletionStream::operator=(CompletionStream&&) noexcept = default;
CompletionStream::~CompletionStream() = default;

const v1::CompletionEvent* CompletionStream::Next() {
  if (first_) {
    event_ = *std::exchange(first_, std::nullopt);
    return &event_;
  }
  if (source_ == nullptr) return nullptr;
  event_.Clear();
  const absl::StatusOr<bool> more = source_->Next(event_);
  if (more.ok() && *more) return &event_;
  status_ = more.status();
  source_.reset();
  return nullptr;
}

void CompletionStream::Cancel() {
  if (source_ == nullptr) return;
  first_.reset();
  source_->Cancel();
  source_.reset();
  status_ = absl::CancelledError("the stream was cancelled");
}

absl::StatusOr<std::unique_ptr<Client>> Client::Create(const ClientOptions& options) {
  const absl::StatusOr<Address> address = ParseAddress(options.address);
  if (!address.ok()) return address.status();
  absl::StatusOr<std::unique_ptr<Transport>> transport =
      address->is_grpc ? MakeGrpcTransport(options, *address) : MakeHttpTransport(options, *address);
  if (!transport.ok()) return transport.status();
  return std::make_unique<Client>(*std::move(transport), options.retry);
}

Client::Client(std::unique_ptr<Transport> transport, const RetryPolicy& retry)
    : transport_(std::move(transport)), retry_(retry) {}
Client::~Client() = default;

absl::StatusOr<v1::CompletionResponse> Client::Complete(const v1::CompletionRequest& request,
                                                        const CallOptions& options) const {
  return WithRetries(retry_, options, [&](const Attempt& attempt) { return transport_->Complete(request, attempt); });
}

absl::StatusOr<CompletionStream> Client::Stream(const v1::CompletionRequest& request,
                                                const CallOptions& options) const {
  return WithRetries(retry_, options, [&](const Attempt& attempt) -> absl::StatusOr<CompletionStream> {
    absl::StatusOr<std::unique_ptr<EventSource>> source = transport_->Stream(request, attempt);
    if (!source.ok()) return source.status();
    v1::CompletionEvent first;
    const absl::StatusOr<bool> more = (*source)->Next(first);
    if (!more.ok()) return more.status();
    if (!*more) return CompletionStream(nullptr);
    return CompletionStream(*std::move(source), std::move(first));
  });
}

absl::Status Client::Stream(const v1::CompletionRequest& request,
                            const std::function<void(const v1::CompletionEvent&)>& on_event,
                            const CallOptions& options) const {
  absl::StatusOr<CompletionStream> stream = Stream(request, options);
  if (!stream.ok()) return stream.status();
  for (const v1::CompletionEvent& event : *stream) on_event(event);
  return stream->status();
}

absl::StatusOr<v1::TokenizeResponse> Client::Tokenize(const v1::TokenizeRequest& request,
                                                      const CallOptions& options) const {
  return WithRetries(retry_, options, [&](const Attempt& attempt) { return transport_->Tokenize(request, attempt); });
}

absl::StatusOr<v1::DetokenizeResponse> Client::Detokenize(const v1::DetokenizeRequest& request,
                                                          const CallOptions& options) const {
  return WithRetries(retry_, options, [&](const Attempt& attempt) { return transport_->Detokenize(request, attempt); });
}

absl::StatusOr<v1::ListModelsResponse> Client::ListModels(const CallOptions& options) const {
  return WithRetries(retry_, options, [&](const Attempt& attempt) { return transport_->ListModels(attempt); });
}

absl::StatusOr<std::string> Client::Metrics(const CallOptions& options) const {
  return WithRetries(retry_, options, [&](const Attempt& attempt) { return transport_->Metrics(attempt); });
}

absl::StatusOr<std::string> Client::DebugSteps(const CallOptions& options) const {
  return WithRetries(retry_, options, [&](const Attempt& attempt) { return transport_->DebugSteps(attempt); });
}

}  // namespace optserve::client
