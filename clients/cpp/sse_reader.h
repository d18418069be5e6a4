#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace optserve::client {

// Takes text/event-stream apart, in whatever pieces it comes. Lines end in LF, CRLF or CR; comments and fields other
// than `data` are skipped; several `data` lines of one event are joined by LF (WHATWG HTML, "Server-sent events").
class SseReader {
 public:
  // ResourceExhausted comes from Next for an event or line that is longer.
  explicit SseReader(size_t max_event_bytes) : max_event_bytes_(max_event_bytes) {}

  void Feed(std::string_view bytes) { buffer_.append(bytes); }

  // True with the data of the next whole event in `data`, false if more bytes are needed.
  absl::StatusOr<bool> Next(std::string& data);

 private:
  bool TakeLine(std::string_view& line);

  size_t max_event_bytes_;
  std::string buffer_;
  size_t begin_ = 0;    // of what is not read in buffer_
  size_t scanned_ = 0;  // up to here, no line ends in it
  std::string data_;    // of the event so far
  bool has_data_ = false;
};

}  // namespace optserve::client
