#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace optserve {

// What a route answers; the connection adds what every response has (Date, x-request-id, Connection).
struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> fields;  // others: Allow, Retry-After, ...
  std::string failure = {};                                 // of ours, for the log: what the body does not say
};

// "Not Found" for 404.
std::string_view ReasonPhrase(int status);

// An error that HTTP itself knows, with the API's body. `code` may be empty (null).
HttpResponse ErrorResponse(int status, std::string_view message, std::string_view code = "");

// An error of a request, by the API's table: status, body, Retry-After, x-should-retry, WWW-Authenticate.
HttpResponse ErrorResponse(const absl::Status& error);

// How the answer goes over the wire, beside its content.
struct ResponseFraming {
  std::string_view request_id;
  std::string_view date;  // as in the Date field
  int minor_version = 1;  // the request's
  bool keep_alive = true;
  std::string_view traceparent = {};  // empty: the request is in no trace
};

// Header and body, ready to be sent; `with_body` is false for HEAD.
std::string SerializeResponse(const HttpResponse& response, const ResponseFraming& framing, bool with_body);

// The header of an event stream: chunked, or for HTTP/1.0 until the connection closes.
std::string SerializeStreamHeader(const ResponseFraming& framing);

}  // namespace optserve
