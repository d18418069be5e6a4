#include <algorithm>
#include <charconv>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "clients/cpp/http_connection.h"
#include "clients/cpp/json_codec.h"
#include "clients/cpp/sse_reader.h"
#include "clients/cpp/transport.h"

namespace optserve::client {
namespace {

constexpr size_t kMaxIdleConnections = 64;
constexpr size_t kMaxErrorBytes = size_t{1} << 20;

// Seconds or a date (RFC 9110, section 10.2.3); nothing for what is neither.
std::optional<std::chrono::milliseconds> ReadRetryAfter(const std::string& text) {
  int64_t seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  constexpr int64_t kMaxSeconds = 1'000'000;
  if (!text.empty() && error == std::errc() && end == text.data() + text.size()) {
    return std::chrono::seconds(std::clamp<int64_t>(seconds, 0, kMaxSeconds));
  }
  absl::Time date;
  std::string why;
  if (!absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", text, &date, &why)) return std::nullopt;
  return std::chrono::milliseconds(std::max<int64_t>(0, absl::ToInt64Milliseconds(date - absl::Now())));
}

// Connections between calls, so that a call does not begin with a handshake.
class IdleConnections {
 public:
  std::unique_ptr<HttpConnection> Take() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return nullptr;
    std::unique_ptr<HttpConnection> connection = std::move(idle_.back());
    idle_.pop_back();
    return connection;
  }

  void Keep(std::unique_ptr<HttpConnection> connection) {
    if (connection == nullptr || !connection->IsReusable()) return;
    const std::lock_guard lock(mutex_);
    if (idle_.size() < kMaxIdleConnections) idle_.push_back(std::move(connection));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<HttpConnection>> idle_;
};

// The rest of a body into `out`.
absl::Status ReadAll(HttpConnection& connection, const Attempt& attempt, size_t max_bytes, std::string& out) {
  while (true) {
    const absl::StatusOr<bool> more = connection.ReadBody(out, attempt);
    if (!more.ok()) return more.status();
    if (!*more) return absl::OkStatus();
    if (out.size() > max_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat("the answer is longer than ", max_bytes, " bytes"));
    }
  }
}

class HttpEvents : public EventSource {
 public:
  HttpEvents(std::unique_ptr<HttpConnection> connection, std::shared_ptr<IdleConnections> idle, Attempt attempt,
             size_t max_event_bytes)
      : connection_(std::move(connection)),
        idle_(std::move(idle)),
        attempt_(std::move(attempt)),
        reader_(max_event_bytes) {}

  absl::StatusOr<bool> Next(v1::CompletionEvent& event) override {
    while (true) {
      const absl::StatusOr<bool> found = reader_.Next(data_);
      if (!found.ok()) return found.status();
      if (*found) break;
      bytes_.clear();
      const absl::StatusOr<bool> more = connection_->ReadBody(bytes_, attempt_);
      if (!more.ok()) return more.status();
      // Servers of this protocol say when they are done, so that an answer cut short is not taken for a whole one.
      if (!*more) return absl::UnavailableError("the stream ended before its [DONE]");
      reader_.Feed(bytes_);
    }
    if (data_ == "[DONE]") {
      End();
      return false;
    }
    if (const absl::Status status = DecodeEvent(data_, event); !status.ok()) return status;
    return true;
  }

  void Cancel() override { connection_.reset(); }

 private:
  // What comes after [DONE] is the body's end; a server that waits with it does not get to hold us up.
  void End() {
    constexpr std::chrono::milliseconds kPatience(50);
    attempt_.deadline = std::min(attempt_.deadline, Clock::now() + kPatience);
    const absl::StatusOr<bool> more = connection_->ReadBody(bytes_, attempt_);
    if (more.ok() && !*more) idle_->Keep(std::move(connection_));
    connection_.reset();
  }

  std::unique_ptr<HttpConnection> connection_;
  std::shared_ptr<IdleConnections> idle_;
  Attempt attempt_;
  SseReader reader_;
  std::string bytes_;
  std::string data_;
};

class HttpTransport : public Transport {
 public:
  HttpTransport(const ClientOptions& options, HttpConnection::Target target)
      : target_(std::move(target)), api_key_(options.api_key), max_answer_bytes_(options.max_answer_bytes) {
    const Address& address = target_.address;
    const bool is_v6 = address.host.find(':') != std::string::npos;
    host_header_ = absl::StrCat(is_v6 ? "[" : "", address.host, is_v6 ? "]:" : ":", address.port);
  }

  absl::StatusOr<v1::CompletionResponse> Complete(const v1::CompletionRequest& request,
                                                  const Attempt& attempt) override {
    const absl::StatusOr<std::string> body = EncodeCompletion(request, /*stream=*/false);
    if (!body.ok()) return body.status();
    const absl::StatusOr<std::string> answer = Call("POST", "/v1/completions", *body, attempt);
    if (!answer.ok()) return answer.status();
    return DecodeCompletion(*answer);
  }

  absl::StatusOr<std::unique_ptr<EventSource>> Stream(const v1::CompletionRequest& request,
                                                      const Attempt& attempt) override {
    const absl::StatusOr<std::string> body = EncodeCompletion(request, /*stream=*/true);
    if (!body.ok()) return body.status();
    absl::StatusOr<Answer> answer = Send("POST", "/v1/completions", *body, attempt);
    if (!answer.ok()) return answer.status();
    if (!answer->head.is_event_stream) {
      return absl::InternalError("the server answered a streamed request with something else than text/event-stream");
    }
    return std::make_unique<HttpEvents>(std::move(answer->connection), idle_, attempt, max_answer_bytes_);
  }

  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request, const Attempt& attempt) override {
    const absl::StatusOr<std::string> answer = Call("POST", "/tokenize", EncodeTokenize(request), attempt);
    if (!answer.ok()) return answer.status();
    return DecodeTokenize(*answer);
  }

  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request,
                                                    const Attempt& attempt) override {
    const absl::StatusOr<std::string> answer = Call("POST", "/detokenize", EncodeDetokenize(request), attempt);
    if (!answer.ok()) return answer.status();
    return DecodeDetokenize(*answer);
  }

  absl::StatusOr<v1::ListModelsResponse> ListModels(const Attempt& attempt) override {
    const absl::StatusOr<std::string> answer = Call("GET", "/v1/models", "", attempt);
    if (!answer.ok()) return answer.status();
    return DecodeModels(*answer);
  }

  absl::StatusOr<std::string> Metrics(const Attempt& attempt) override { return Call("GET", "/metrics", "", attempt); }

  absl::StatusOr<std::string> DebugSteps(const Attempt& attempt) override {
    return Call("GET", "/debug/steps", "", attempt);
  }

 private:
  struct Answer {
    std::unique_ptr<HttpConnection> connection;
    HttpHead head;
  };

  // The whole body of a good answer.
  absl::StatusOr<std::string> Call(std::string_view method, std::string_view path, std::string body,
                                   const Attempt& attempt) {
    absl::StatusOr<Answer> answer = Send(method, path, std::move(body), attempt);
    if (!answer.ok()) return answer.status();
    std::string text;
    if (absl::Status status = ReadAll(*answer->connection, attempt, max_answer_bytes_, text); !status.ok())
      return status;
    idle_->Keep(std::move(answer->connection));
    return text;
  }

  // An answer of status 200, whose body is not read yet; or its error.
  absl::StatusOr<Answer> Send(std::string_view method, std::string_view path, std::string body,
                              const Attempt& attempt) {
    const HttpRequest request = {.method = method,
                                 .target = absl::StrCat(target_.address.path, std::string(path)),
                                 .host = host_header_,
                                 .body = std::move(body),
                                 .api_key = api_key_,
                                 .request_id = attempt.request_id};
    while (true) {
      std::unique_ptr<HttpConnection> connection = idle_->Take();
      const bool is_kept = connection != nullptr;
      if (!is_kept) {
        absl::StatusOr<std::unique_ptr<HttpConnection>> opened = HttpConnection::Open(target_, attempt);
        if (!opened.ok()) return opened.status();
        connection = *std::move(opened);
      }
      absl::StatusOr<HttpHead> head = connection->Send(request, attempt);
      // The server closed it before it saw the request: not a failure, the next connection will do.
      if (!head.ok() && is_kept && connection->GotNothing() && absl::IsUnavailable(head.status())) continue;
      if (!head.ok()) return head.status();
      if (head->status == 200) return Answer{.connection = std::move(connection), .head = *std::move(head)};
      return ErrorOf(*head, std::move(connection), attempt);
    }
  }

  absl::Status ErrorOf(const HttpHead& head, std::unique_ptr<HttpConnection> connection, const Attempt& attempt) {
    std::string text;
    const absl::Status read = ReadAll(*connection, attempt, kMaxErrorBytes, text);
    if (read.ok()) idle_->Keep(std::move(connection));
    return DecodeError(head.status, text,
                       {.request_id = head.request_id,
                        .retry_after = ReadRetryAfter(head.retry_after),
                        .should_retry = head.should_retry});
  }

  HttpConnection::Target target_;
  std::string host_header_;
  std::string api_key_;
  size_t max_answer_bytes_;
  std::shared_ptr<IdleConnections> idle_ = std::make_shared<IdleConnections>();  // streams may outlive the client
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakeHttpTransport(const ClientOptions& options, const Address& address) {
  HttpConnection::Target target = {
      .address = address,
      .tls = nullptr,
      .server_name = options.tls.server_name.empty() ? address.host : options.tls.server_name,
      .connect_timeout = options.connect_timeout};
  if (address.has_tls) {
    absl::StatusOr<std::shared_ptr<TlsContext>> tls = TlsContext::Create(options.tls);
    if (!tls.ok()) return tls.status();
    target.tls = *std::move(tls);
  }
  return std::make_unique<HttpTransport>(options, std::move(target));
}

}  // namespace optserve::client
