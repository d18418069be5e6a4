#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "server/tracing/request_trace.h"

namespace optserve {

// A gRPC call's part in the trace that its metadata names (`traceparent`, `tracestate`); copies are of the same part.
class CallTrace {
 public:
  CallTrace() = default;

  // Tells the client its place in the trace: `traceparent` in the answer's initial metadata. `method`: "Stream"; a
  // literal.
  CallTrace(const Tracer* tracer, grpc::CallbackServerContext& context, std::string_view method);

  // Empty: the call is in no trace.
  std::string trace_id() const { return context_ ? Hex(context_->trace_id) : ""; }

  // For the call's own part; nullptr: it is not recorded.
  const std::shared_ptr<RequestTrace>& request() const { return trace_; }

  // The call has ended.
  void Finish(grpc::StatusCode code);

 private:
  std::optional<TraceContext> context_;
  std::shared_ptr<RequestTrace> trace_;
  std::string_view method_;
};

}  // namespace optserve
