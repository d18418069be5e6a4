#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "server/http/http_limits.h"
#include "server/http/request.h"

namespace optserve {

// HTTP/1.1 requests out of the bytes of a connection, one after the other. Pure: no sockets, no clock.
//
// It takes what RFC 9112 tells clients to send and refuses everything that two parsers could read differently, because
// that is how requests are smuggled past a proxy: two Content-Length (also equal ones), Content-Length with
// Transfer-Encoding, any transfer coding but one `chunked`, a bare LF or CR, a folded field, white space before the
// colon, a sign or white space in a number, control characters, no Host or several. (Beast 1.81's parser lets several
// of these through, which is why it is not used.) Trailers are read and dropped.
//
// Memory is bounded by HttpLimits; nothing is reserved on the word of a Content-Length.
class RequestParser {
 public:
  explicit RequestParser(const HttpLimits& limits);

  // For the request to come. Not to be called when started().
  void SetLimits(const HttpLimits& limits);

  // Takes bytes of the current request from the front of `bytes` and returns how many; it stops at the end of the
  // header, at the end of the request and at a failure. Not to be called when done() or failed().
  size_t Feed(std::string_view bytes);

  bool started() const { return started_; }  // has seen a byte of the request
  bool header_done() const { return stage_ >= Stage::kBody; }
  bool done() const { return stage_ == Stage::kDone; }
  bool failed() const { return status_ != 0; }

  // With failed(): what to answer before the connection is closed. 400, 413, 414, 417, 431, 501 or 505.
  int status() const { return status_; }
  const std::string& message() const { return message_; }

  // Bytes of the body so far; with header_done(), how many are announced (0 with chunked).
  size_t body_size() const { return request_.body.size(); }
  uint64_t content_length() const { return content_length_; }

  // With header_done(): the request; its body is whole when done().
  const HttpRequest& request() const { return request_; }

  // With done(): the request; the parser is ready for the next.
  HttpRequest Take();

 private:
  enum class Stage { kRequestLine, kFields, kBody, kChunkSize, kChunkData, kChunkEnd, kTrailers, kDone };

  void Fail(int status, std::string message);
  void TakeLine(std::string_view line);  // without CRLF
  void TakeRequestLine(std::string_view line);
  void TakeTarget(std::string_view target);
  void TakeField(std::string_view line);
  void TakeChunkSize(std::string_view line);
  void EndHeader();
  size_t LineLimit() const;

  HttpLimits limits_;
  Stage stage_ = Stage::kRequestLine;
  bool started_ = false;
  int status_ = 0;
  std::string message_;
  HttpRequest request_;
  std::string line_;        // the beginning of a line whose end has not come yet
  size_t header_left_ = 0;  // of limits_.header_bytes
  int num_hosts_ = 0;
  bool has_content_length_ = false;
  bool chunked_ = false;
  bool asked_to_close_ = false;
  uint64_t content_length_ = 0;
  uint64_t left_ = 0;  // of the body or chunk
};

}  // namespace optserve
