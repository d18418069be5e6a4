#include "server/http/admin_routes.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>
#include <vector>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "server/api/error_codec.h"
#include "server/api/field_schema.h"
#include "server/api/json_reader.h"
#include "server/api/json_request.h"
#include "server/api/json_response.h"
#include "server/api/steps_json.h"

namespace optserve {
namespace {

HttpResponse PlainText(std::string text) {
  return {.content_type = "text/plain; charset=utf-8", .body = std::move(text)};
}

int32_t MaxModelLen(const ServerState& server) { return server.service.load()->engine().model().max_model_len; }

}  // namespace

HttpResponse Livez(const RouteCall&) { return PlainText("ok\n"); }

HttpResponse Readyz(const RouteCall& call) {
  if (call.server.draining) return ErrorResponse(ShuttingDown());
  if (call.server.options.ready) {
    const absl::Status ready = call.server.options.ready();
    // Whatever is the matter, to a probe it is the one answer that it knows.
    if (!ready.ok()) {
      return ErrorResponse(WithErrorCode(absl::UnavailableError(ready.message()), ErrorCode(ready).value_or("")));
    }
  }
  if (call.server.service == nullptr) return ErrorResponse(ModelLoading());
  return PlainText("ok\n");
}

HttpResponse MetricsText(const RouteCall& call) {
  return {.content_type = "text/plain; version=0.0.4; charset=utf-8",
          .body = call.server.options.metrics ? call.server.options.metrics() : ""};
}

HttpResponse Version(const RouteCall&) { return {.body = R"({"version":")" OPTSERVE_VERSION R"("})"}; }

HttpResponse OpenApi(const RouteCall&) {
  static const std::string* const document = new std::string(OpenApiDocument(OPTSERVE_VERSION));
  return {.body = *document};
}

HttpResponse Models(const RouteCall& call) {
  const CompletionService* service = call.server.service;
  if (service == nullptr) return ErrorResponse(ModelLoading());
  const ModelEntry model{.id = service->options().served_model_name,
                         .created = service->options().model_created,
                         .max_model_len = MaxModelLen(call.server)};
  return {.body = EncodeModels({&model, 1})};
}

HttpResponse Capabilities(const RouteCall& call) {
  const CompletionService* service = call.server.service;
  if (service == nullptr) return ErrorResponse(ModelLoading());
  const std::shared_ptr<const LimitsInForce> in_force = call.server.limits.Get();
  const HttpLimits& http = in_force->http;
  const ModelInfo& model = service->engine().model();
  const auto seconds = [](std::chrono::milliseconds time) { return time.count() / 1000; };
  std::vector<NamedLimit> limits = {
      {"max_model_len", model.max_model_len},
      {"vocab_size", model.vocab_size},
      {"max_num_seqs", model.max_num_seqs},
      {"kv_tokens", model.kv_tokens},
      {"max_choices", in_force->decode.limits.max_choices},
      {"text_body_bytes", static_cast<int64_t>(in_force->decode.limits.text_body_bytes)},
      {"body_bytes", static_cast<int64_t>(http.body_bytes)},
      {"json_depth", JsonReader::kMaxDepth},
      {"header_bytes", static_cast<int64_t>(http.header_bytes)},
      {"header_fields", static_cast<int64_t>(http.header_fields)},
      {"target_bytes", static_cast<int64_t>(http.target_bytes)},
      {"connections", http.connections},
      {"stream_bytes", static_cast<int64_t>(http.stream_bytes)},
      {"stall_seconds", seconds(http.stall_time)},
      {"header_seconds", seconds(http.header_time)},
      {"body_seconds", seconds(http.body_time)},
      {"idle_seconds", seconds(http.idle_time)},
  };
  std::ranges::copy(call.server.options.engine_limits, std::back_inserter(limits));
  return {.body = EncodeCapabilities(OPTSERVE_VERSION, service->options().served_model_name, limits)};
}

HttpResponse DebugSteps(const RouteCall& call) {
  const CompletionService* service = call.server.service;
  if (service == nullptr) return ErrorResponse(ModelLoading());
  return {.body = EncodeSteps(service->engine().RecentSteps(/*after=*/0))};
}

HttpResponse Tokenize(const RouteCall& call) {
  const CompletionService* service = call.server.service;
  if (service == nullptr) return ErrorResponse(ModelLoading());
  const absl::StatusOr<TokenizeRequest> request =
      DecodeTokenizeRequest(call.request.body, call.server.limits.Get()->decode);
  if (!request.ok()) return ErrorResponse(request.status());
  const absl::StatusOr<std::vector<int32_t>> ids = service->Tokenize(
      call.api_key_id, request->model, request->prompt,
      {.add_special_tokens = request->add_special_tokens, .parse_special_tokens = request->parse_special_tokens});
  if (!ids.ok()) return ErrorResponse(ids.status());
  return {.body = EncodeTokenizeResponse(*ids, MaxModelLen(call.server))};
}

HttpResponse Detokenize(const RouteCall& call) {
  const CompletionService* service = call.server.service;
  if (service == nullptr) return ErrorResponse(ModelLoading());
  const absl::StatusOr<DetokenizeRequest> request =
      DecodeDetokenizeRequest(call.request.body, call.server.limits.Get()->decode);
  if (!request.ok()) return ErrorResponse(request.status());
  const absl::StatusOr<std::string> text = service->Detokenize(call.api_key_id, request->model, request->tokens);
  if (!text.ok()) return ErrorResponse(text.status());
  return {.body = EncodeDetokenizeResponse(*text)};
}

HttpResponse TokenizerInfo(const RouteCall& call) {
  const CompletionService* service = call.server.service;
  if (service == nullptr) return ErrorResponse(ModelLoading());
  if (service->tokenizer() == nullptr) return ErrorResponse(TokenizerMissing("prompt"));
  return {.body = EncodeTokenizerInfo(*service->tokenizer(), MaxModelLen(call.server))};
}

HttpResponse ChatIsNotSupported(const RouteCall&) {
  return ErrorResponse(404, "OPT has no chat template: use POST /v1/completions", "chat_not_supported");
}

}  // namespace optserve
