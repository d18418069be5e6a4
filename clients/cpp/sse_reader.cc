#include "clients/cpp/sse_reader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace optserve::client {

bool SseReader::TakeLine(std::string_view& line) {
  const size_t end = buffer_.find_first_of("\r\n", std::max(begin_, scanned_));
  // Of a CR at the very end it is not known yet whether an LF belongs to it.
  if (end == std::string::npos || (buffer_[end] == '\r' && end + 1 == buffer_.size())) {
    scanned_ = end == std::string::npos ? buffer_.size() : end;
    return false;
  }
  line = std::string_view(buffer_).substr(begin_, end - begin_);
  begin_ = end + (buffer_[end] == '\r' && buffer_[end + 1] == '\n' ? 2 : 1);
  scanned_ = begin_;
  return true;
}

absl::StatusOr<bool> SseReader::Next(std::string& data) {
  std::string_view line;
  while (TakeLine(line)) {
    if (line.empty()) {
      if (!std::exchange(has_data_, false)) continue;
      data.swap(data_);
      data_.clear();
      return true;
    }
    constexpr std::string_view kField = "data:";
    if (!line.starts_with(kField)) continue;
    line.remove_prefix(kField.size());
    if (line.starts_with(' ')) line.remove_prefix(1);
    if (has_data_) data_ += '\n';
    has_data_ = true;
    data_ += line;
    if (data_.size() > max_event_bytes_) break;
  }
  if (data_.size() + buffer_.size() - begin_ > max_event_bytes_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("an event of the stream is longer than max_answer_bytes, ", max_event_bytes_));
  }
  buffer_.erase(0, begin_);
  scanned_ -= begin_;
  begin_ = 0;
  return false;
}

}  // namespace optserve::client
