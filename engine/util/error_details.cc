#include "engine/util/error_details.h"

#include <charconv>

#include "absl/strings/cord.h"

namespace optserve {
namespace {

constexpr char kCode[] = "optserve/code";
constexpr char kParam[] = "optserve/param";
constexpr char kRetryAfter[] = "optserve/retry-after";

absl::Status With(absl::Status status, const char* key, std::string_view value) {
  status.SetPayload(key, absl::Cord(absl::string_view(value.data(), value.size())));
  return status;
}

std::optional<std::string> Get(const absl::Status& status, const char* key) {
  const auto payload = status.GetPayload(key);
  if (!payload.has_value()) return std::nullopt;
  return std::string(*payload);
}

}  // namespace

absl::Status WithErrorCode(absl::Status status, std::string_view code) { return With(std::move(status), kCode, code); }
std::optional<std::string> ErrorCode(const absl::Status& status) { return Get(status, kCode); }

absl::Status WithParam(absl::Status status, std::string_view param) { return With(std::move(status), kParam, param); }
std::optional<std::string> Param(const absl::Status& status) { return Get(status, kParam); }

absl::Status WithRetryAfter(absl::Status status, int seconds) {
  return With(std::move(status), kRetryAfter, std::to_string(seconds));
}

std::optional<int> RetryAfterSeconds(const absl::Status& status) {
  const std::optional<std::string> text = Get(status, kRetryAfter);
  int seconds = 0;
  if (!text || std::from_chars(text->data(), text->data() + text->size(), seconds).ec != std::errc())
    return std::nullopt;
  return seconds;
}

}  // namespace optserve
