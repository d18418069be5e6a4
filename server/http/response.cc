#include "server/http/response.h"

#include <fmt/format.h>

#include <iterator>

#include "server/api/error_codec.h"

namespace optserve {
namespace {

void AppendCommonFields(std::string& out, const ResponseFraming& framing) {
  fmt::format_to(std::back_inserter(out), "Date: {}\r\nx-request-id: {}\r\n", framing.date, framing.request_id);
  if (!framing.traceparent.empty()) fmt::format_to(std::back_inserter(out), "traceparent: {}\r\n", framing.traceparent);
  // HTTP/1.0 closes unless told otherwise, HTTP/1.1 stays.
  if (!framing.keep_alive) {
    out += "Connection: close\r\n";
  } else if (framing.minor_version == 0) {
    out += "Connection: keep-alive\r\n";
  }
}

}  // namespace

std::string_view ReasonPhrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Unknown";
  }
}

HttpResponse ErrorResponse(int status, std::string_view message, std::string_view code) {
  return {.status = status, .body = ErrorBody(message, kInvalidRequest, "", code)};
}

HttpResponse ErrorResponse(const absl::Status& error) {
  HttpError http = ToHttpError(error);
  HttpResponse response{.status = http.status, .body = std::move(http.body)};
  if (http.retry_after_seconds) {
    response.fields.emplace_back("Retry-After", fmt::format("{}", *http.retry_after_seconds));
  }
  if (http.should_retry) response.fields.emplace_back("x-should-retry", *http.should_retry ? "true" : "false");
  if (http.status == 500) response.failure = error.ToString();
  if (http.status == 401) response.fields.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

std::string SerializeResponse(const HttpResponse& response, const ResponseFraming& framing, bool with_body) {
  std::string out;
  out.reserve(256 + (with_body ? response.body.size() : 0));
  fmt::format_to(std::back_inserter(out), "HTTP/1.1 {} {}\r\n", response.status, ReasonPhrase(response.status));
  if (response.status != 304) {  // it has no content, and its length would be taken for the page's
    fmt::format_to(std::back_inserter(out), "Content-Type: {}\r\nContent-Length: {}\r\n", response.content_type,
                   response.body.size());
  }
  AppendCommonFields(out, framing);
  for (const auto& [name, value] : response.fields) fmt::format_to(std::back_inserter(out), "{}: {}\r\n", name, value);
  out += "\r\n";
  if (with_body) out += response.body;
  return out;
}

std::string SerializeStreamHeader(const ResponseFraming& framing) {
  std::string out =
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
  AppendCommonFields(out, framing);
  if (framing.minor_version == 1) out += "Transfer-Encoding: chunked\r\n";
  out += "\r\n";
  return out;
}

}  // namespace optserve
