#include "server/commands/trace_collector.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "clients/cpp/http_connection.h"
#include "clients/cpp/transport.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/tracing/otlp_json.h"

namespace optserve {
namespace {

constexpr std::chrono::milliseconds kConnectTime{5000};
constexpr size_t kMaxAnswerBytes = size_t{64} << 10;

Delivery Later(const absl::Status& why) {
  return {.result = Delivery::Result::kRetry, .why = std::string(why.message())};
}

// OTLP names the answers after which a batch should be sent again.
bool IsRetryable(int status) { return status == 429 || status == 502 || status == 503 || status == 504; }

std::optional<std::chrono::milliseconds> ParseRetryAfter(const std::string& text) {
  int seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size() || seconds < 0 || seconds > 86400) return std::nullopt;
  return std::chrono::seconds(seconds);
}

Delivery Post(const client::HttpConnection::Target& target, const client::HttpRequest& request,
              const client::Attempt& attempt) {
  absl::StatusOr<std::unique_ptr<client::HttpConnection>> connection = client::HttpConnection::Open(target, attempt);
  if (!connection.ok()) return Later(connection.status());
  const absl::StatusOr<client::HttpHead> head = (*connection)->Send(request, attempt);
  if (!head.ok()) return Later(head.status());
  if (head->status < 200 || head->status > 299) {
    return {.result = IsRetryable(head->status) ? Delivery::Result::kRetry : Delivery::Result::kRefused,
            .why = fmt::format("it answered {}", head->status),
            .retry_after = ParseRetryAfter(head->retry_after)};
  }
  std::string answer;
  for (bool more = true; more && answer.size() < kMaxAnswerBytes;) {
    more = (*connection)->ReadBody(answer, attempt).value_or(false);
  }
  return {.num_rejected = RejectedSpans(answer)};
}

}  // namespace

absl::StatusOr<SpanExporter::Send> SendToCollector(const std::string& url) {
  absl::StatusOr<client::Address> address = client::ParseAddress(url);
  if (!address.ok() || address->is_grpc) {
    return InvalidArgument(
        "--otlp-traces-endpoint is '{}', but it must be the URL of a collector's OTLP/HTTP, such as "
        "http://127.0.0.1:4318/v1/traces",
        url);
  }
  client::HttpConnection::Target target{
      .address = *address, .server_name = address->host, .connect_timeout = kConnectTime};
  if (address->has_tls) {
    OPTSERVE_ASSIGN_OR_RETURN(target.tls, client::TlsContext::Create({}));
  }
  const bool is_ipv6 = address->host.find(':') != std::string::npos;
  std::string host = fmt::format("{}{}{}:{}", is_ipv6 ? "[" : "", address->host, is_ipv6 ? "]" : "", address->port);
  std::string path = address->path.empty() ? "/v1/traces" : address->path;
  return [target = std::move(target), host = std::move(host), path = std::move(path)](
             const std::string& body, std::chrono::steady_clock::time_point deadline, std::stop_token stop) {
    const client::HttpRequest request{.method = "POST", .target = path, .host = host, .body = body};
    return Post(target, request, {.deadline = deadline, .stop = std::move(stop)});
  };
}

}  // namespace optserve
