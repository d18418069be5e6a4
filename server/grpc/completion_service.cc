#include "server/grpc/completion_service.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/api/error_codec.h"
#include "server/completion/request_id.h"
#include "server/grpc/completion_calls.h"
#include "server/grpc/grpc_status.h"

namespace optserve {
namespace {

// A stream that has nothing to say but its status.
class RefusedStream final : public grpc::ServerWriteReactor<v1::CompletionEvent> {
 public:
  explicit RefusedStream(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext& context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context.DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

// "127.0.0.1" of "ipv4:127.0.0.1:54321", "%5B::1%5D" of "ipv6:%5B::1%5D:54321".
std::string_view AddressOf(std::string_view peer) {
  const size_t begin = peer.find(':') + 1;  // 0 if there is none
  const size_t end = peer.rfind(':');
  return end == peer.npos || end < begin ? peer : peer.substr(begin, end - begin);
}

// Seconds until the client stops waiting; none if it always will.
std::optional<double> SecondsLeft(const grpc::CallbackServerContext& context) {
  constexpr double kForever = 1e8;  // seconds; three years
  const std::chrono::duration<double> left = context.deadline() - std::chrono::system_clock::now();
  return left.count() < kForever ? std::optional(left.count()) : std::nullopt;
}

}  // namespace

GrpcCompletionService::GrpcCompletionService(const GrpcServer::Options& options, std::shared_ptr<CallPump> pump)
    : options_(options),
      limits_({.decode = {.limits = options.limits, .ignore_unknown_fields = options.ignore_unknown_fields},
               .stall_time = options.stall_time}),
      pump_(std::move(pump)) {}

void GrpcCompletionService::SetLimits(const RequestLimits& limits, std::chrono::milliseconds stall_time) {
  limits_.Replace({.decode = {.limits = limits, .ignore_unknown_fields = options_.ignore_unknown_fields},
                   .stall_time = stall_time});
}

absl::StatusOr<std::string> GrpcCompletionService::Authorize(const grpc::CallbackServerContext& context) const {
  if (!options_.authorize) return std::string();
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("authorization");
  const std::string peer = context.peer();
  if (found == metadata.end()) return options_.authorize({}, AddressOf(peer));
  return options_.authorize({found->second.data(), found->second.size()}, AddressOf(peer));
}

CallOrigin GrpcCompletionService::Arrive(grpc::CallbackServerContext& context) const {
  CallOrigin origin{.arrival = std::chrono::steady_clock::now(), .log = options_.log};
  const auto& metadata = context.client_metadata();
  const auto sent = metadata.find("x-request-id");
  origin.request_id = RequestIdFor(sent == metadata.end() ? std::string_view()
                                                          : std::string_view(sent->second.data(), sent->second.size()));
  context.AddInitialMetadata("x-request-id", origin.request_id);
  return origin;
}

absl::StatusOr<CompletionService*> GrpcCompletionService::Service() const {
  CompletionService* service = service_;
  if (draining_) return ShuttingDown();
  if (service == nullptr) return ModelLoading();
  return service;
}

absl::StatusOr<GrpcCompletionService::Admitted> GrpcCompletionService::Admit(const grpc::CallbackServerContext& context,
                                                                             std::string api_key_id,
                                                                             const v1::CompletionRequest& request,
                                                                             bool stream) const {
  Admitted admitted;
  OPTSERVE_ASSIGN_OR_RETURN(admitted.service, Service());
  OPTSERVE_ASSIGN_OR_RETURN(admitted.request, DecodeCompletionRequest(request, stream, limits_.Get()->decode));
  admitted.request.api_key_id = std::move(api_key_id);
  if (const std::optional<double> left = SecondsLeft(context)) {
    if (*left <= 0) return absl::DeadlineExceededError("the call's deadline had passed before it began");
    admitted.request.timeout_seconds = std::min(admitted.request.timeout_seconds.value_or(*left), *left);
  }
  return admitted;
}

grpc::ServerUnaryReactor* GrpcCompletionService::Complete(grpc::CallbackServerContext* context,
                                                          const v1::CompletionRequest* request,
                                                          v1::CompletionResponse* response) {
  CallOrigin origin = Arrive(*context);
  absl::StatusOr<std::string> key = Authorize(*context);
  if (!key.ok()) return Answer(*context, key.status());
  origin.trace = CallTrace(options_.tracer, *context, "Complete");
  absl::StatusOr<Admitted> admitted = Admit(*context, *std::move(key), *request, /*stream=*/false);
  if (admitted.ok()) {
    return UnaryCall::Start(pump_, *admitted->service, std::move(admitted->request), response, std::move(origin));
  }
  origin.trace.Finish(ToGrpcStatus(admitted.status()).error_code());
  return Answer(*context, admitted.status());
}

grpc::ServerWriteReactor<v1::CompletionEvent>* GrpcCompletionService::Stream(grpc::CallbackServerContext* context,
                                                                             const v1::CompletionRequest* request) {
  CallOrigin origin = Arrive(*context);
  absl::StatusOr<std::string> key = Authorize(*context);
  if (!key.ok()) return new RefusedStream(ToGrpcStatus(key.status()));
  origin.trace = CallTrace(options_.tracer, *context, "Stream");
  absl::StatusOr<Admitted> admitted = Admit(*context, *std::move(key), *request, /*stream=*/true);
  if (admitted.ok()) {
    return StreamCall::Start(pump_, *admitted->service, std::move(admitted->request), context,
                             limits_.Get()->stall_time, std::move(origin));
  }
  const grpc::Status status = ToGrpcStatus(admitted.status());
  origin.trace.Finish(status.error_code());
  return new RefusedStream(status);
}

absl::StatusOr<GrpcCompletionService::Caller> GrpcCompletionService::FindCaller(
    const grpc::CallbackServerContext& context) const {
  Caller caller;
  OPTSERVE_ASSIGN_OR_RETURN(caller.api_key_id, Authorize(context));
  OPTSERVE_ASSIGN_OR_RETURN(caller.service, Service());
  return caller;
}

grpc::ServerUnaryReactor* GrpcCompletionService::AnswerLater(grpc::CallbackServerContext& context, size_t size,
                                                             std::function<absl::Status()> work) {
  constexpr size_t kSmall = 16 * 1024;
  if (size <= kSmall) return Answer(context, work());
  grpc::ServerUnaryReactor* reactor = context.DefaultReactor();
  const bool pushed = long_work_.Push([reactor, work = std::move(work)] { reactor->Finish(ToGrpcStatus(work())); });
  if (!pushed) reactor->Finish(ToGrpcStatus(ResourceExhausted("too many long texts wait already; try again soon")));
  return reactor;
}

// Request and response live until the answer is sent, so that work may look at them later.

grpc::ServerUnaryReactor* GrpcCompletionService::Tokenize(grpc::CallbackServerContext* context,
                                                          const v1::TokenizeRequest* message,
                                                          v1::TokenizeResponse* response) {
  const absl::StatusOr<Caller> caller = FindCaller(*context);
  if (!caller.ok()) return Answer(*context, caller.status());
  return AnswerLater(*context, message->prompt().size(), [this, message, response, caller = *caller]() -> absl::Status {
    OPTSERVE_ASSIGN_OR_RETURN(const TokenizeRequest request, DecodeTokenizeRequest(*message, limits_.Get()->decode));
    OPTSERVE_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                              caller.service->Tokenize(caller.api_key_id, request.model, request.prompt,
                                                       {.add_special_tokens = request.add_special_tokens,
                                                        .parse_special_tokens = request.parse_special_tokens}));
    response->mutable_tokens()->Add(ids.begin(), ids.end());
    response->set_count(static_cast<int32_t>(ids.size()));
    response->set_max_model_len(caller.service->engine().model().max_model_len);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* GrpcCompletionService::Detokenize(grpc::CallbackServerContext* context,
                                                            const v1::DetokenizeRequest* message,
                                                            v1::DetokenizeResponse* response) {
  const absl::StatusOr<Caller> caller = FindCaller(*context);
  if (!caller.ok()) return Answer(*context, caller.status());
  return AnswerLater(*context, message->tokens_size(), [this, message, response, caller = *caller]() -> absl::Status {
    OPTSERVE_ASSIGN_OR_RETURN(const DetokenizeRequest request,
                              DecodeDetokenizeRequest(*message, limits_.Get()->decode));
    OPTSERVE_ASSIGN_OR_RETURN(std::string prompt,
                              caller.service->Detokenize(caller.api_key_id, request.model, request.tokens));
    response->set_prompt(std::move(prompt));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* GrpcCompletionService::ListModels(grpc::CallbackServerContext* context,
                                                            const v1::ListModelsRequest* /*request*/,
                                                            v1::ListModelsResponse* response) {
  return Answer(*context, [&]() -> absl::Status {
    OPTSERVE_RETURN_IF_ERROR(Authorize(*context).status());
    OPTSERVE_ASSIGN_OR_RETURN(const CompletionService* service, Service());
    v1::Model& model = *response->add_models();
    model.set_id(service->options().served_model_name);
    model.set_created(service->options().model_created);
    model.set_owned_by("optserve");
    model.set_max_model_len(service->engine().model().max_model_len);
    return absl::OkStatus();
  }());
}

}  // namespace optserve
