#include "server/grpc/completion_calls.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "server/api/error_codec.h"
#include "server/api/proto_codec.h"
#include "server/grpc/grpc_status.h"

namespace optserve {

using Clock = std::chrono::steady_clock;

void CallInProgress::Begin(uint64_t id, CompletionService& service, CompletionRequest request) {
  id_ = id;
  api_key_id_ = request.api_key_id;
  request.request_id = origin_.request_id;
  // The pump is shared, because an engine may say "ready" until its last event, whatever has become of the server.
  std::shared_ptr<CompletionCall> call = service.Start(
      std::move(request), [pump = pump_, id] { pump->Post(id); }, origin_.trace.request());
  {
    std::lock_guard lock(mu_);
    completion_ = std::move(call);
  }
  pump_->Post(id);  // what was ready before there was a completion_
}

void CallInProgress::Cancelled() {
  std::shared_ptr<CompletionCall> call;
  {
    std::lock_guard lock(mu_);
    cancelled_ = true;
    call = completion_;
  }
  if (call != nullptr) call->Cancel();
  Advance();
}

void CallInProgress::Done() {
  {
    std::lock_guard lock(mu_);
    origin_.trace.Finish(code_);
    LogEnd();
  }
  pump_->Remove(id_);
}

void CallInProgress::LogEnd() const {
  if (origin_.log == nullptr) return;
  const bool failed = !error_.ok() && code_ != grpc::StatusCode::CANCELLED;
  int status = code_ == grpc::StatusCode::OK ? 200 : kClientHasLeft;
  if (failed) status = ToHttpError(error_).status;
  const LoggedRequest request{
      .protocol = "grpc", .request_id = origin_.request_id, .trace_id = origin_.trace.trace_id()};
  if (status == 500) LogFailure(origin_.log, request, error_.ToString());
  LogCompletion(origin_.log, request,
                {.id = completion_->id(),
                 .api_key_id = api_key_id_,
                 .status = status,
                 .seconds = std::chrono::duration<double>(Clock::now() - origin_.arrival).count(),
                 .usage = usage_});
}

CompletionHead CallInProgress::Head() const {
  return {.id = completion_->id(),
          .created = completion_->created(),
          .model = model_,
          .system_fingerprint = completion_->system_fingerprint()};
}

grpc::ServerUnaryReactor* UnaryCall::Start(std::shared_ptr<CallPump> pump, CompletionService& service,
                                           CompletionRequest request, v1::CompletionResponse* response,
                                           CallOrigin origin) {
  auto call = std::make_shared<UnaryCall>(pump, service, response, std::move(origin));
  call->Begin(pump->Add(call), service, std::move(request));
  return call.get();  // lives until OnDone, and that comes after this has returned to gRPC
}

void UnaryCall::Advance() {
  grpc::Status status;
  {
    std::lock_guard lock(mu_);
    if (finished_ || completion_ == nullptr) return;
    if (cancelled_) {
      status = grpc::Status(grpc::StatusCode::CANCELLED, "cancelled");
    } else {
      CompletionBatch batch = completion_->Take();
      std::move(batch.events.begin(), batch.events.end(), std::back_inserter(events_));
      if (!batch.done) return;
      error_ = std::move(batch.error);
      status = ToGrpcStatus(error_);
      if (status.ok()) {
        if (!events_.empty()) usage_ = events_.back().usage;
        EncodeCompletion(Head(), std::move(events_), usage_, *response_);
      }
    }
    completion_->NoteAnswered();
    finished_ = true;
    code_ = status.error_code();
  }
  Finish(std::move(status));
}

grpc::ServerWriteReactor<v1::CompletionEvent>* StreamCall::Start(std::shared_ptr<CallPump> pump,
                                                                 CompletionService& service, CompletionRequest request,
                                                                 grpc::CallbackServerContext* context,
                                                                 std::chrono::milliseconds stall_time,
                                                                 CallOrigin origin) {
  auto call = std::make_shared<StreamCall>(pump, service, request, context, stall_time, std::move(origin));
  call->Begin(pump->Add(call), service, std::move(request));
  return call.get();  // as above
}

StreamCall::StreamCall(std::shared_ptr<CallPump> pump, const CompletionService& service,
                       const CompletionRequest& request, grpc::CallbackServerContext* context,
                       std::chrono::milliseconds stall_time, CallOrigin origin)
    : CallInProgress(std::move(pump), service, std::move(origin)),
      continuous_usage_(request.continuous_usage_stats),
      context_(context),
      stall_time_(stall_time),
      usage_owed_(request.include_usage) {}

bool StreamCall::MakeNext() {
  if (events_.empty() && !all_taken_) {
    CompletionBatch batch = completion_->Take();
    std::move(batch.events.begin(), batch.events.end(), std::back_inserter(events_));
    all_taken_ = batch.done;
    error_ = std::move(batch.error);
  }
  const CompletionHead head = Head();
  if (!events_.empty()) {
    usage_ = events_.front().usage;
    EncodeEvent(head, std::move(events_.front()), continuous_usage_, message_);
    events_.pop_front();
    return true;
  }
  if (all_taken_ && error_.ok() && usage_owed_) {
    usage_owed_ = false;
    EncodeUsageEvent(head, usage_, message_);
    return true;
  }
  return false;
}

void StreamCall::Advance() {
  grpc::Status status;
  bool write = false;
  {
    std::lock_guard lock(mu_);
    if (writing_ || finished_ || completion_ == nullptr) return;
    if (cancelled_) {
      status = grpc::Status(grpc::StatusCode::CANCELLED, "cancelled");
    } else if (MakeNext()) {
      write = writing_ = true;
      write_began_ = Clock::now();
    } else if (all_taken_) {
      status = ToGrpcStatus(error_);
    } else {
      return;
    }
    finished_ = !write;
    if (finished_) completion_->NoteAnswered();
    code_ = status.error_code();
  }
  // Nobody else writes or finishes in between: writing_ or finished_ keeps them off.
  if (write) {
    StartWrite(&message_);  // no buffer hint: gRPC 1.51 may then keep the message, and OnWriteDone, for ever
  } else {
    Finish(std::move(status));
  }
}

void StreamCall::OnWriteDone(bool /*ok*/) {  // not ok: the client has gone, and OnCancel says so
  {
    std::lock_guard lock(mu_);
    writing_ = false;
  }
  Advance();
}

void StreamCall::Tick(Clock::time_point now) {
  // Under the lock, because context_ lives until OnDone, which waits for OnWriteDone, which waits for the lock.
  std::lock_guard lock(mu_);
  if (!writing_ || cancelled_ || now - write_began_ < stall_time_) return;
  context_->TryCancel();  // the write fails, and OnCancel, later and elsewhere, ends the call
}

}  // namespace optserve
