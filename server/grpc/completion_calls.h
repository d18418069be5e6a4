#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "optserve/v1/completion.grpc.pb.h"
#include "server/api/json_response.h"
#include "server/completion/completion_log.h"
#include "server/completion/completion_service.h"
#include "server/grpc/call_pump.h"
#include "server/grpc/call_trace.h"

// The two ways in which a CompletionCall answers a gRPC call: gRPC's reactor on one side, CallPump on the other.
//
// Threads  on_ready (the engine's) only posts to the pump. Pump, OnWriteDone and OnCancel may run at once on different
//          threads; each ends in Advance, which decides under the call's lock what to do next and does it without.
// Life     the pump owns a call until OnDone, gRPC's last word.

namespace optserve {

// What is known of a call from its arrival on.
struct CallOrigin {
  std::chrono::steady_clock::time_point arrival;
  std::string request_id;  // the client's `x-request-id`, or a new one
  CallTrace trace;
  const Log* log = nullptr;  // nullptr: nothing is logged
};

// What both have: the CompletionCall, and how it begins and ends.
class CallInProgress : public PumpedCall {
 public:
  CallInProgress(std::shared_ptr<CallPump> pump, const CompletionService& service, CallOrigin origin)
      : pump_(std::move(pump)), model_(service.options().served_model_name), origin_(std::move(origin)) {}

  void Pump() final { Advance(); }

 protected:
  // Starts `request`. `id` is ours in the pump.
  void Begin(uint64_t id, CompletionService& service, CompletionRequest request);

  // Sends what there is to send, if nothing is on its way.
  virtual void Advance() = 0;

  // gRPC's OnCancel: the client has gone, its deadline has passed, or the server stops.
  void Cancelled();

  // gRPC's OnDone; has it logged and destroys the call.
  void Done();

  // The lines of the log, by Done. Under mu_, with a completion_.
  void LogEnd() const;

  // Of all messages of the answer. Under mu_, with a completion_.
  CompletionHead Head() const;

  const std::shared_ptr<CallPump> pump_;
  const std::string model_;
  uint64_t id_ = 0;
  std::string api_key_id_;
  CallOrigin origin_;

  std::mutex mu_;                               // all below
  std::shared_ptr<CompletionCall> completion_;  // none until it has begun
  bool cancelled_ = false;
  bool finished_ = false;                                // Finish was called, or is about to be
  grpc::StatusCode code_ = grpc::StatusCode::CANCELLED;  // with finished_: what it was called with
  absl::Status error_;                                   // what code_ was made of, if it is an error of the completion
  Usage usage_;                                          // as far as the client was told
};

// Completion.Complete: collects all of the answer.
class UnaryCall final : public CallInProgress, public grpc::ServerUnaryReactor {
 public:
  // Begins and returns the reactor of the call.
  static grpc::ServerUnaryReactor* Start(std::shared_ptr<CallPump> pump, CompletionService& service,
                                         CompletionRequest request, v1::CompletionResponse* response,
                                         CallOrigin origin);

  UnaryCall(std::shared_ptr<CallPump> pump, const CompletionService& service, v1::CompletionResponse* response,
            CallOrigin origin)
      : CallInProgress(std::move(pump), service, std::move(origin)), response_(response) {}

  void Tick(std::chrono::steady_clock::time_point /*now*/) override {}
  void OnCancel() override { Cancelled(); }
  void OnDone() override { Done(); }

 private:
  void Advance() override;

  v1::CompletionResponse* const response_;  // gRPC's, until Finish
  std::vector<CompletionEvent> events_;
};

// Completion.Stream: one message at a time is written; meanwhile events wait in the CompletionCall, as token ids.
class StreamCall final : public CallInProgress, public grpc::ServerWriteReactor<v1::CompletionEvent> {
 public:
  // Begins and returns the reactor of the call. A reader that leaves one event untaken for `stall_time` is cancelled.
  static grpc::ServerWriteReactor<v1::CompletionEvent>* Start(std::shared_ptr<CallPump> pump,
                                                              CompletionService& service, CompletionRequest request,
                                                              grpc::CallbackServerContext* context,
                                                              std::chrono::milliseconds stall_time, CallOrigin origin);

  StreamCall(std::shared_ptr<CallPump> pump, const CompletionService& service, const CompletionRequest& request,
             grpc::CallbackServerContext* context, std::chrono::milliseconds stall_time, CallOrigin origin);

  void Tick(std::chrono::steady_clock::time_point now) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override { Cancelled(); }
  void OnDone() override { Done(); }

 private:
  void Advance() override;

  // The next message into message_; false when there is none. Under mu_.
  bool MakeNext();

  const bool continuous_usage_;
  grpc::CallbackServerContext* const context_;
  const std::chrono::milliseconds stall_time_;

  // Under mu_, too.
  std::deque<CompletionEvent> events_;  // taken, not yet written
  v1::CompletionEvent message_;         // being written while writing_
  bool writing_ = false;
  std::chrono::steady_clock::time_point write_began_;
  bool all_taken_ = false;
  bool usage_owed_ = false;  // the event that has only usage is still to come
};

}  // namespace optserve
