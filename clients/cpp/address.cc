#include <algorithm>
#include <charconv>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "clients/cpp/transport.h"

namespace optserve::client {
namespace {

absl::Status NotAnAddress(const std::string& address, std::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("'", address, "' is not an address: ", std::string(why),
                   "; write http://HOST:PORT, https://HOST:PORT, grpc://HOST:PORT or grpcs://HOST:PORT"));
}

bool IsPort(std::string_view text) {
  int port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  return error == std::errc() && end == text.data() + text.size() && port > 0 && port < 65536;
}

}  // namespace

absl::StatusOr<Address> ParseAddress(const std::string& address) {
  constexpr std::string_view kSeparator = "://";
  std::string_view rest = address;
  const size_t separator = rest.find(kSeparator);
  if (separator == std::string_view::npos) return NotAnAddress(address, "it begins with no protocol");
  const std::string_view protocol = rest.substr(0, separator);
  rest.remove_prefix(separator + kSeparator.size());

  Address parsed;
  parsed.is_grpc = protocol == "grpc" || protocol == "grpcs";
  parsed.has_tls = protocol == "https" || protocol == "grpcs";
  if (!parsed.is_grpc && protocol != "http" && protocol != "https") {
    return NotAnAddress(address, "we speak http, https, grpc and grpcs");
  }
  const auto is_odd = [](unsigned char byte) {
    return byte <= ' ' || byte >= 0x7F || byte == '@' || byte == '?' || byte == '#';
  };
  if (std::any_of(rest.begin(), rest.end(), is_odd)) {
    return NotAnAddress(address, "it holds a space, a user, a query or a character that is not ASCII");
  }

  const size_t slash = rest.find('/');
  std::string_view path = slash == std::string_view::npos ? std::string_view() : rest.substr(slash);
  rest = rest.substr(0, slash);
  while (path.ends_with('/')) path.remove_suffix(1);
  if (path.ends_with("/v1")) path.remove_suffix(3);
  if (parsed.is_grpc && !path.empty()) return NotAnAddress(address, "gRPC has no path");
  parsed.path = path;

  size_t colon = rest.rfind(':');
  if (rest.starts_with('[')) {
    const size_t bracket = rest.find(']');
    if (bracket == std::string_view::npos) return NotAnAddress(address, "a bracket is not closed");
    parsed.host = rest.substr(1, bracket - 1);
    colon = rest.find(':', bracket);
    if (bracket + 1 != (colon == std::string_view::npos ? rest.size() : colon)) {
      return NotAnAddress(address, "something stands between the bracket and the port");
    }
  } else {
    parsed.host = rest.substr(0, colon);
    if (parsed.host.find(':') != std::string::npos) return NotAnAddress(address, "an IPv6 address needs [brackets]");
  }
  if (parsed.host.empty()) return NotAnAddress(address, "it names no host");
  if (colon != std::string_view::npos) {
    parsed.port = rest.substr(colon + 1);
  } else if (parsed.is_grpc) {
    return NotAnAddress(address, "gRPC has no usual port, so name one");
  } else {
    parsed.port = parsed.has_tls ? "443" : "80";
  }
  if (!IsPort(parsed.port)) return NotAnAddress(address, "the port is not a number from 1 to 65535");
  return parsed;
}

}  // namespace optserve::client
