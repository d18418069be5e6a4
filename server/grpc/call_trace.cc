#include "server/grpc/call_trace.h"

#include <array>
#include <string>
#include <utility>
#include <vector>

namespace optserve {
namespace {

constexpr std::array<std::string_view, 17> kCodeNames = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

// Which codes are the server's failure, by OpenTelemetry's conventions for gRPC.
bool IsFailure(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::UNIMPLEMENTED:
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DATA_LOSS:
      return true;
    default:
      return false;
  }
}

std::vector<std::string_view> Values(const grpc::CallbackServerContext& context, const char* name) {
  std::vector<std::string_view> values;
  const auto [begin, end] = context.client_metadata().equal_range(name);
  for (auto entry = begin; entry != end; ++entry) values.emplace_back(entry->second.data(), entry->second.size());
  return values;
}

}  // namespace

CallTrace::CallTrace(const Tracer* tracer, grpc::CallbackServerContext& context, std::string_view method)
    : method_(method) {
  RequestTracing tracing =
      BeginTrace(tracer, ParseTraceContext(Values(context, "traceparent"), Values(context, "tracestate")));
  context_ = tracing.context;
  if (context_) context.AddInitialMetadata("traceparent", FormatTraceparent(*context_));
  trace_ = std::move(tracing.trace);
}

void CallTrace::Finish(grpc::StatusCode code) {
  if (trace_ == nullptr) return;
  SpanAttributes attributes = {{"rpc.system", "grpc"},
                               {"rpc.service", "optserve.v1.Completion"},
                               {"rpc.method", std::string(method_)},
                               {"rpc.grpc.status_code", int64_t{code}}};
  if (code != grpc::StatusCode::OK) attributes.emplace_back("error.type", std::string(kCodeNames.at(code)));
  trace_->Finish(std::move(attributes), IsFailure(code));
  trace_.reset();
}

}  // namespace optserve
