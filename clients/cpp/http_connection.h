#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "clients/cpp/transport.h"

namespace optserve::client {

// What TLS needs for any number of connections; any thread.
class TlsContext {
 public:
  // InvalidArgument if `options.ca_file` cannot be read as certificates.
  static absl::StatusOr<std::shared_ptr<TlsContext>> Create(const TlsOptions& options);
  virtual ~TlsContext() = default;
};

struct HttpRequest {
  std::string_view method;  // "GET" or "POST"
  std::string target;
  std::string host;  // header Host
  std::string body;  // JSON, for POST
  std::string api_key;
  std::string request_id;
};

struct HttpHead {
  int status = 0;
  bool is_event_stream = false;
  std::string request_id;            // x-request-id
  std::string retry_after;           // as it was written
  std::optional<bool> should_retry;  // x-should-retry
};

// One HTTP/1.1 connection: Send, then ReadBody until it says false, then perhaps again. One thread at a time.
//
// Errors: DeadlineExceeded and Cancelled of the attempt; Unavailable for all that happens to connections;
// FailedPrecondition for a certificate that we do not believe; Internal for bytes that are not HTTP; ResourceExhausted
// for heads of more than 64 KiB. After an error, or when an answer was not read to its end, it is good for nothing
// more.
class HttpConnection {
 public:
  struct Target {
    Address address;
    std::shared_ptr<TlsContext> tls;  // null: none
    std::string server_name;          // that the certificate must be of
    std::chrono::milliseconds connect_timeout;
  };

  static absl::StatusOr<std::unique_ptr<HttpConnection>> Open(const Target& target, const Attempt& attempt);
  virtual ~HttpConnection() = default;

  // Sends the request and waits for the answer's head.
  virtual absl::StatusOr<HttpHead> Send(const HttpRequest& request, const Attempt& attempt) = 0;

  // Appends what has come of the body, at least a byte. False at its end.
  virtual absl::StatusOr<bool> ReadBody(std::string& out, const Attempt& attempt) = 0;

  // Whether the last answer was read to its end and the server means to take another request.
  virtual bool IsReusable() const = 0;

  // Whether nothing at all has come since the last Send: a connection that was kept may have been closed meanwhile, and
  // then the request may go over another one.
  virtual bool GotNothing() const = 0;
};

}  // namespace optserve::client
