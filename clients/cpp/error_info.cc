#include "optserve/client/error_info.h"

#include <nlohmann/json.hpp>

#include "absl/strings/cord.h"

namespace optserve::client {
namespace {

// A payload, as JSON: what a Status can carry is bytes.
constexpr char kPayload[] = "optserve.client/ErrorInfo";

}  // namespace

absl::Status WithErrorInfo(absl::Status status, const ErrorInfo& info) {
  if (status.ok() || info == ErrorInfo{}) return status;
  nlohmann::json json = {
      {"http_status", info.http_status}, {"code", info.code}, {"param", info.param}, {"request_id", info.request_id}};
  if (info.retry_after) json["retry_after_ms"] = info.retry_after->count();
  if (info.should_retry) json["should_retry"] = *info.should_retry;
  status.SetPayload(kPayload, absl::Cord(json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
  return status;
}

ErrorInfo ErrorInfoOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  if (!payload) return {};
  const nlohmann::json json = nlohmann::json::parse(std::string(*payload), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return {};
  ErrorInfo info = {.http_status = json.value("http_status", 0),
                    .code = json.value("code", ""),
                    .param = json.value("param", ""),
                    .request_id = json.value("request_id", "")};
  if (json.contains("retry_after_ms")) info.retry_after = std::chrono::milliseconds(json["retry_after_ms"]);
  if (json.contains("should_retry")) info.should_retry = json["should_retry"].get<bool>();
  return info;
}

}  // namespace optserve::client
