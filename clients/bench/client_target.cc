#include "clients/bench/client_target.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "optserve/client/error_info.h"

namespace optserve::bench {
namespace {

bool IsHttp(const std::string& address) { return address.starts_with("http"); }

v1::CompletionRequest ToProto(const LoadRequest& request, const std::string& model) {
  v1::CompletionRequest proto;
  if (!model.empty()) proto.set_model(model);
  proto.add_prompt()->mutable_token_ids()->mutable_ids()->Assign(request.prompt.begin(), request.prompt.end());
  proto.set_max_tokens(request.output_tokens);
  proto.set_temperature(0.0f);
  proto.set_ignore_eos(true);
  proto.mutable_stream_options()->set_include_usage(true);
  return proto;
}

}  // namespace

std::string ErrorClass(const absl::Status& status) {
  const client::ErrorInfo info = client::ErrorInfoOf(status);
  const std::string code(absl::StatusCodeToString(status.code()));
  const std::string kind = info.http_status != 0 ? absl::StrCat(info.http_status) : code;
  return info.code.empty() ? kind : absl::StrCat(kind, " ", info.code);
}

absl::StatusOr<std::unique_ptr<ClientTarget>> ClientTarget::Make(Options options) {
  client::ClientOptions client_options{.address = options.address, .api_key = options.api_key};
  client_options.retry.max_attempts = 1;
  absl::StatusOr<std::unique_ptr<client::Client>> client = client::Client::Create(client_options);
  if (!client.ok()) return client.status();
  std::unique_ptr<client::Client> metrics;
  if (!options.metrics_address.empty() || IsHttp(options.address)) {
    if (!options.metrics_address.empty()) client_options.address = options.metrics_address;
    absl::StatusOr<std::unique_ptr<client::Client>> other = client::Client::Create(client_options);
    if (!other.ok()) return other.status();
    metrics = *std::move(other);
  }
  return std::unique_ptr<ClientTarget>(new ClientTarget(std::move(options), *std::move(client), std::move(metrics)));
}

Outcome ClientTarget::Complete(const LoadRequest& request, const std::function<void(int num_tokens)>& on_tokens) {
  Outcome outcome;
  int64_t arrivals = 0;
  const auto timeout = std::chrono::milliseconds(static_cast<int64_t>(options_.timeout_seconds * 1e3));
  const absl::Status status = client_->Stream(ToProto(request, options_.model),
                                              [&](const v1::CompletionEvent& event) {
                                                // Ours sends a token in each event, with empty text where bytes of a
                                                // character are missing. Others send text that may be of several
                                                // tokens; how many only `usage` says, at the end.
                                                if (event.choices_size() > 0) {
                                                  ++arrivals;
                                                  on_tokens(std::max(1, event.choices(0).token_ids_size()));
                                                }
                                                if (!event.has_usage()) return;
                                                outcome.prompt_tokens = event.usage().prompt_tokens();
                                                outcome.output_tokens = event.usage().completion_tokens();
                                              },
                                              {.timeout = timeout});
  if (!status.ok()) {
    outcome.error = ErrorClass(status);
    outcome.in_stream = arrivals > 0;
  }
  return outcome;
}

std::optional<EngineReading> ClientTarget::Read() const {
  if (metrics_ == nullptr) return std::nullopt;
  const absl::StatusOr<std::string> text = metrics_->Metrics();
  return text.ok() ? ReadMetrics(*text) : std::nullopt;
}

absl::StatusOr<std::string> ClientTarget::ModelName() const {
  const absl::StatusOr<v1::ListModelsResponse> models = client_->ListModels();
  if (!models.ok()) return models.status();
  if (models->models_size() == 0) return absl::FailedPreconditionError("the server names no model");
  return models->models(0).id();
}

}  // namespace optserve::bench
