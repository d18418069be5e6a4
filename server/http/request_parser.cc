#include "server/http/request_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "server/http/ascii.h"

namespace optserve {
namespace {

constexpr size_t kChunkLineBytes = 256;  // hexadecimal size and extensions
constexpr size_t kMethodBytes = 32;

// RFC 9110, 5.6.2.
constexpr std::array<bool, 256> MakeTokenTable() {
  std::array<bool, 256> table{};
  for (int c = '0'; c <= '9'; ++c) table[c] = true;
  for (int c = 'a'; c <= 'z'; ++c) table[c] = table[c - 'a' + 'A'] = true;
  for (const char c : std::string_view("!#$%&'*+-.^_`|~")) table[static_cast<unsigned char>(c)] = true;
  return table;
}
constexpr std::array<bool, 256> kIsToken = MakeTokenTable();

bool IsToken(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return kIsToken[c]; });
}

// Visible ASCII without '#': what a request target may hold.
bool IsTarget(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return c > ' ' && c < 0x7f && c != '#'; });
}

// Field values: no control characters but the tab.
bool IsFieldValue(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return (c >= ' ' && c != 0x7f) || c == '\t'; });
}

// host[:port]; a name, an IPv4 address or an IPv6 address in brackets. Empty is allowed (RFC 9110, 7.2).
bool IsHost(std::string_view text) {
  std::string_view port;
  if (text.starts_with('[')) {
    const size_t end = text.find(']');
    if (end == text.npos) return false;
    const std::string_view address = text.substr(1, end - 1);
    if (address.empty() ||
        !std::all_of(address.begin(), address.end(), [](char c) { return IsHexDigit(c) || c == ':' || c == '.'; })) {
      return false;
    }
    port = text.substr(end + 1);
  } else {
    const size_t colon = std::min(text.find(':'), text.size());
    const std::string_view name = text.substr(0, colon);
    if (!std::all_of(name.begin(), name.end(),
                     [](char c) { return IsAlnum(c) || c == '-' || c == '.' || c == '_' || c == '~' || c == '%'; })) {
      return false;
    }
    port = text.substr(colon);
  }
  if (port.empty()) return true;
  return port.size() <= 6 && port[0] == ':' && std::all_of(port.begin() + 1, port.end(), IsDigit);
}

}  // namespace

RequestParser::RequestParser(const HttpLimits& limits) : limits_(limits), header_left_(limits.header_bytes) {}

void RequestParser::SetLimits(const HttpLimits& limits) {
  limits_ = limits;
  header_left_ = limits.header_bytes;
}

HttpRequest RequestParser::Take() {
  HttpRequest request = std::move(request_);
  stage_ = Stage::kRequestLine;
  started_ = false;
  request_ = {};
  header_left_ = limits_.header_bytes;
  num_hosts_ = 0;
  has_content_length_ = chunked_ = asked_to_close_ = false;
  content_length_ = left_ = 0;
  return request;
}

void RequestParser::Fail(int status, std::string message) {
  status_ = status;
  message_ = std::move(message);
}

// Bytes that the current line may have before its end must have come.
size_t RequestParser::LineLimit() const {
  if (stage_ == Stage::kChunkSize || stage_ == Stage::kChunkEnd) return kChunkLineBytes;
  if (stage_ == Stage::kRequestLine) return std::min(header_left_, limits_.target_bytes + kMethodBytes);
  return header_left_;
}

size_t RequestParser::Feed(std::string_view bytes) {
  size_t used = 0;
  const bool header_was_done = header_done();
  while (used < bytes.size() && !failed() && !done() && header_done() == header_was_done) {
    const std::string_view rest = bytes.substr(used);
    if (stage_ == Stage::kBody || stage_ == Stage::kChunkData) {
      const size_t count = std::min<uint64_t>(left_, rest.size());
      request_.body.append(rest.substr(0, count));
      used += count;
      left_ -= count;
      if (left_ == 0) stage_ = stage_ == Stage::kBody ? Stage::kDone : Stage::kChunkEnd;
      continue;
    }
    if (!started_) {
      started_ = true;
      // A robust server skips an empty line before a request (RFC 9112, 2.2); anything else must be a method.
      if (rest[0] != '\r' && !kIsToken[static_cast<unsigned char>(rest[0])]) {
        Fail(400, "this is not HTTP: the request line must begin with a method (the port speaks http, not https)");
        break;
      }
    }
    const size_t newline = rest.find('\n');
    const size_t count = std::min(newline, rest.size());
    if (line_.size() + count > LineLimit() + 1) {
      const bool in_target = stage_ == Stage::kRequestLine && LineLimit() < header_left_;
      if (stage_ == Stage::kChunkSize || stage_ == Stage::kChunkEnd) {
        Fail(400, "the line before a chunk is too long");
      } else if (in_target) {
        Fail(414, fmt::format("the request target is longer than {} bytes", limits_.target_bytes));
      } else {
        Fail(431, fmt::format("the header is longer than {} bytes", limits_.header_bytes));
      }
      break;
    }
    if (newline == rest.npos) {
      line_.append(rest);
      used += rest.size();
      break;
    }
    used += newline + 1;
    std::string_view line = rest.substr(0, newline);
    if (!line_.empty()) {
      line_.append(line);
      line = line_;
    }
    if (!line.ends_with('\r')) {
      Fail(400, "a line must end with CR LF, not with LF alone");
      break;
    }
    if (stage_ != Stage::kChunkSize && stage_ != Stage::kChunkEnd) header_left_ -= std::min(header_left_, line.size());
    line.remove_suffix(1);
    TakeLine(line);
    line_.clear();
  }
  return used;
}

void RequestParser::TakeLine(std::string_view line) {
  switch (stage_) {
    case Stage::kRequestLine:
      if (!line.empty()) return TakeRequestLine(line);
      if (header_left_ + 4 < limits_.header_bytes) Fail(400, "empty lines instead of a request");
      return;
    case Stage::kFields:
      return line.empty() ? EndHeader() : TakeField(line);
    case Stage::kChunkSize:
      return TakeChunkSize(line);
    case Stage::kChunkEnd:
      if (!line.empty()) return Fail(400, "a chunk is longer than its size says");
      stage_ = Stage::kChunkSize;
      return;
    case Stage::kTrailers:
      if (line.empty()) stage_ = Stage::kDone;
      if (!IsFieldValue(line)) Fail(400, "a trailer field has a control character");
      return;
    case Stage::kBody:
    case Stage::kChunkData:
    case Stage::kDone:
      return;
  }
}

void RequestParser::TakeRequestLine(std::string_view line) {
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == line.npos || first == last) {
    return Fail(400, "the request line must be: method, one space, target, one space, HTTP/1.1");
  }
  const std::string_view method = line.substr(0, first);
  const std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (!IsToken(method) || method.size() > kMethodBytes) return Fail(400, "the method is not a word");
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    const bool is_http = version.size() == 8 && version.starts_with("HTTP/") && IsDigit(version[5]) &&
                         version[6] == '.' && IsDigit(version[7]);
    return is_http ? Fail(505, "the versions spoken here are HTTP/1.1 and HTTP/1.0")
                   : Fail(400, "the request line must end with HTTP/1.1");
  }
  if (target.size() > limits_.target_bytes) {
    return Fail(414, fmt::format("the request target is longer than {} bytes", limits_.target_bytes));
  }
  request_.method = method;
  request_.minor_version = version.back() - '0';
  request_.keep_alive = request_.minor_version == 1;
  TakeTarget(target);
  if (!failed()) stage_ = Stage::kFields;
}

void RequestParser::TakeTarget(std::string_view target) {
  if (!IsTarget(target)) return Fail(400, "the request target has a character that must be percent-encoded");
  // The absolute form is what proxies get; a server must take it too (RFC 9112, 3.2.2).
  constexpr std::string_view kScheme = "http://";
  if (EqualsIgnoreCase(target.substr(0, kScheme.size()), kScheme)) {
    target.remove_prefix(kScheme.size());
    const size_t end = std::min(target.find_first_of("/?"), target.size());
    if (end == 0 || !IsHost(target.substr(0, end))) return Fail(400, "the request target names no valid host");
    target.remove_prefix(end);
  } else if (!target.starts_with('/') && target != "*") {
    return Fail(400, "the request target must begin with '/'");
  }
  const size_t question = std::min(target.find('?'), target.size());
  const std::string_view path = target.substr(0, question);
  request_.path = path.empty() ? std::string_view("/") : path;
  if (question < target.size()) request_.query = target.substr(question + 1);
}

void RequestParser::TakeField(std::string_view line) {
  if (line[0] == ' ' || line[0] == '\t') return Fail(400, "a header field must not be folded over lines");
  if (request_.fields.size() >= limits_.header_fields) {
    return Fail(431, fmt::format("the header has more than {} fields", limits_.header_fields));
  }
  const size_t colon = line.find(':');
  if (colon == line.npos) return Fail(400, "a header field has no colon");
  if (!IsToken(line.substr(0, colon))) return Fail(400, "the name of a header field has a character it must not have");
  std::string name(line.substr(0, colon));
  std::transform(name.begin(), name.end(), name.begin(), ToLower);
  const std::string_view value = Trim(line.substr(colon + 1));
  if (!IsFieldValue(value)) return Fail(400, fmt::format("the header field {} has a control character", name));

  if (name == "content-length") {
    if (has_content_length_) return Fail(400, "the header has two Content-Length fields");
    if (value.empty() || value.size() > 19 || !std::all_of(value.begin(), value.end(), IsDigit)) {
      return Fail(400, "Content-Length must be a number");
    }
    has_content_length_ = true;
    for (const char digit : value) content_length_ = content_length_ * 10 + static_cast<uint64_t>(digit - '0');
  } else if (name == "transfer-encoding") {
    if (chunked_) return Fail(400, "the header has two Transfer-Encoding fields");
    if (!EqualsIgnoreCase(value, "chunked")) return Fail(501, "the only transfer coding known here is: chunked");
    chunked_ = true;
  } else if (name == "host") {
    ++num_hosts_;
    if (!IsHost(value)) return Fail(400, "Host must be a name or an address, with or without a port");
  } else if (name == "connection") {
    for (std::string_view rest = value; !rest.empty();) {
      const size_t comma = std::min(rest.find(','), rest.size());
      const std::string_view option = Trim(rest.substr(0, comma));
      if (EqualsIgnoreCase(option, "close")) asked_to_close_ = true;
      if (EqualsIgnoreCase(option, "keep-alive")) request_.keep_alive = true;
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
  } else if (name == "expect") {
    if (!EqualsIgnoreCase(value, "100-continue")) return Fail(417, "the only expectation known here is: 100-continue");
    request_.expects_continue = request_.minor_version == 1;
  }
  request_.fields.emplace_back(std::move(name), value);
}

void RequestParser::EndHeader() {
  if (num_hosts_ > 1) return Fail(400, "the header has two Host fields");
  if (num_hosts_ == 0 && request_.minor_version == 1) return Fail(400, "the header has no Host field");
  if (chunked_ && has_content_length_) return Fail(400, "the header has Content-Length and Transfer-Encoding");
  if (chunked_ && request_.minor_version == 0) return Fail(400, "HTTP/1.0 has no Transfer-Encoding");
  if (content_length_ > limits_.body_bytes) {
    return Fail(413, fmt::format("the body has {} bytes; the limit is {}", content_length_, limits_.body_bytes));
  }
  if (asked_to_close_) request_.keep_alive = false;
  left_ = content_length_;
  stage_ = chunked_ ? Stage::kChunkSize : left_ > 0 ? Stage::kBody : Stage::kDone;
}

void RequestParser::TakeChunkSize(std::string_view line) {
  const size_t end = std::min(line.find(';'), line.size());
  std::string_view digits = line.substr(0, end);
  // "BWS" before an extension is allowed by the grammar and sent by nobody; it is refused like other white space.
  if (digits.empty() || digits.size() > 8 || !std::all_of(digits.begin(), digits.end(), IsHexDigit)) {
    return Fail(400, "the size of a chunk must be 1 to 8 hexadecimal digits");
  }
  if (!IsFieldValue(line.substr(end))) return Fail(400, "a chunk extension has a control character");
  left_ = 0;
  for (const char digit : digits) left_ = left_ * 16 + static_cast<uint64_t>(HexValue(digit));
  if (request_.body.size() + left_ > limits_.body_bytes) {
    return Fail(413, fmt::format("the body has more than {} bytes", limits_.body_bytes));
  }
  stage_ = left_ > 0 ? Stage::kChunkData : Stage::kTrailers;
}

}  // namespace optserve
