// A connection's bytes as HTTP requests. The first byte of the input says how they are cut: however they arrive, the
// same requests come out, the same error ends them, and no limit is passed.

#include <algorithm>
#include <random>
#include <vector>

#include "server/http/request_parser.h"
#include "tests/fuzz/fuzz.h"

using namespace optserve;

namespace {

// Small, so that short inputs reach them.
const HttpLimits kLimits{.header_bytes = 512, .header_fields = 8, .target_bytes = 64, .body_bytes = 256};

struct Parsed {
  std::vector<HttpRequest> requests;
  int status = 0;
  std::string message;
  bool in_header = false;  // where the bytes ended
  size_t body_size = 0;
};

void CheckRequest(const HttpRequest& request) {
  FUZZ_CHECK(!request.method.empty() && !request.path.empty());
  FUZZ_CHECK(request.path.front() == '/' || request.path == "*");
  FUZZ_CHECK(request.body.size() <= kLimits.body_bytes && request.fields.size() <= kLimits.header_fields);
  FUZZ_CHECK(request.path.size() + request.query.size() <= kLimits.target_bytes);
  size_t bytes = 0;
  const auto count = [&](std::string_view name) {
    return std::count_if(request.fields.begin(), request.fields.end(), [&](const auto& f) { return f.first == name; });
  };
  for (const auto& [name, value] : request.fields) {
    bytes += name.size() + value.size();
    FUZZ_CHECK(!name.empty() && name.find_first_of(" \t\r\n:") == std::string::npos);
    FUZZ_CHECK(value.find_first_of(std::string_view("\r\n\0", 3)) == std::string::npos);
  }
  FUZZ_CHECK(bytes <= kLimits.header_bytes);
  // What requests are smuggled with.
  FUZZ_CHECK(count("host") <= 1 && (count("host") == 1 || request.minor_version == 0));
  FUZZ_CHECK(count("content-length") + count("transfer-encoding") <= 1);
}

template <typename NextSize>
Parsed Parse(std::string_view input, NextSize next_size) {
  RequestParser parser(kLimits);
  Parsed parsed;
  while (!input.empty() && !parser.failed()) {
    std::string_view piece = input.substr(0, std::max<size_t>(1, next_size()));
    input.remove_prefix(piece.size());
    while (!piece.empty() && !parser.failed()) {
      const size_t used = parser.Feed(piece);
      FUZZ_CHECK(used <= piece.size());
      const bool moved = used > 0 || parser.failed();
      FUZZ_CHECK(moved);
      piece.remove_prefix(used);
      if (!parser.done()) continue;
      CheckRequest(parser.request());
      parsed.requests.push_back(parser.Take());
    }
  }
  parsed.status = parser.status();
  parsed.message = parser.message();
  parsed.in_header = !parser.header_done();
  parsed.body_size = parser.body_size();
  return parsed;
}

bool operator==(const HttpRequest& a, const HttpRequest& b) {
  return std::tie(a.method, a.path, a.query, a.minor_version, a.fields, a.body, a.keep_alive, a.expects_continue) ==
         std::tie(b.method, b.path, b.query, b.minor_version, b.fields, b.body, b.keep_alive, b.expects_continue);
}

bool Same(const Parsed& a, const Parsed& b) {
  return std::equal(a.requests.begin(), a.requests.end(), b.requests.begin(), b.requests.end(),
                    [](const HttpRequest& x, const HttpRequest& y) { return x == y; }) &&
         std::tie(a.status, a.message, a.in_header) == std::tie(b.status, b.message, b.in_header) &&
         (a.status != 0 || a.body_size == b.body_size);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view input = fuzz::Text(data + 1, size - 1);
  const Parsed whole = Parse(input, [&] { return input.size(); });
  const Parsed bytes = Parse(input, [] { return size_t{1}; });
  std::minstd_rand random(data[0] + 1);
  const Parsed pieces = Parse(input, [&] { return size_t{random() % 24}; });
  FUZZ_CHECK(Same(whole, bytes));
  FUZZ_CHECK(Same(whole, pieces));
  if (whole.status != 0) FUZZ_CHECK(whole.status >= 400 && !whole.message.empty());
  return 0;
}
