#include "clients/cpp/cli/server_access.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "optserve/client/error_info.h"

namespace optserve::cli {

absl::StatusOr<std::string> ReadText(const std::string& file) {
  std::FILE* in = file == "-" ? stdin : std::fopen(file.c_str(), "rb");
  if (in == nullptr) {
    return absl::InvalidArgumentError(fmt::format("cannot open '{}': {}", file, std::strerror(errno)));
  }
  std::string text;
  char bytes[1 << 16];
  for (size_t count = 0; (count = std::fread(bytes, 1, sizeof(bytes), in)) > 0;) text.append(bytes, count);
  const bool is_bad = std::ferror(in) != 0;
  const int why = errno;
  if (in != stdin) std::fclose(in);
  if (is_bad) return absl::InvalidArgumentError(fmt::format("cannot read '{}': {}", file, std::strerror(why)));
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

absl::StatusOr<std::unique_ptr<client::Client>> Connect(const ServerAccess& access) {
  client::ClientOptions options = {.address = access.address, .api_key = access.api_key};
  options.tls.ca_file = access.ca_file;
  if (!access.api_key_file.empty()) {
    const absl::StatusOr<std::string> text = ReadText(access.api_key_file);
    if (!text.ok()) return text.status();
    options.api_key = text->substr(0, text->find_first_of("\r\n"));
  }
  return client::Client::Create(options);
}

client::CallOptions CallOf(const ServerAccess& access) {
  return {.timeout = std::chrono::milliseconds(std::llround(access.timeout_seconds * 1000))};
}

std::string HintFor(const absl::Status& error, const ServerAccess& access) {
  const std::string_view message(error.message().data(), error.message().size());
  const auto says = [&](std::string_view words) { return message.find(words) != std::string_view::npos; };
  const bool has_tls = access.address.starts_with("https:") || access.address.starts_with("grpcs:");
  if (has_tls && (says("wrong version number") || says("WRONG_VERSION_NUMBER") || says("unexpected eof"))) {
    return "it may not speak TLS: try the address with http:// or grpc://";
  }
  if (says("certificate verify failed") || says("CERTIFICATE_VERIFY_FAILED") || says("Handshake")) {
    return "to trust the server's own certificate, name its file with --ca-file";
  }
  if (absl::IsUnauthenticated(error))
    return "name the API key's file with --api-key-file, or put the key into OPTSERVE_API_KEY";
  if (says("http1.x server")) return "this is its HTTP port: write http://, or name its gRPC port";
  if (absl::IsUnavailable(error) && (says("onnect") || says("looking up"))) {
    return fmt::format(
        "no server answers at {}: start one with 'optserve serve MODEL', or say where it is with --address",
        access.address);
  }
  if (absl::IsInternal(error) && says("not HTTP")) return "if this is its gRPC port, write grpc://";
  if (absl::IsDeadlineExceeded(error))
    return fmt::format("it had {:g} s; --timeout gives it more", access.timeout_seconds);
  return "";
}

int Fail(const absl::Status& error, const ServerAccess& access) {
  std::string line(error.message());
  std::replace(line.begin(), line.end(), '\n', ' ');
  std::fflush(stdout);
  fmt::print(stderr, "optserve-cli: {}\n", line);
  if (const std::string hint = HintFor(error, access); !hint.empty()) fmt::print(stderr, "  {}\n", hint);
  switch (error.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kUnimplemented:
      return kExitBadUsage;
    default:
      return kExitRuntimeError;
  }
}

}  // namespace optserve::cli
