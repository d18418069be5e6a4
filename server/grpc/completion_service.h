#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>

#include "engine/util/replaceable.h"
#include "optserve/v1/completion.grpc.pb.h"
#include "server/api/proto_codec.h"
#include "server/completion/completion_service.h"
#include "server/completion/work_queue.h"
#include "server/grpc/call_pump.h"
#include "server/grpc/completion_calls.h"
#include "server/grpc/grpc_server.h"

namespace optserve {

// optserve.v1.Completion on gRPC's callback API: decodes, checks who asks, and hands over to the CompletionService. No
// handler waits for anything.
class GrpcCompletionService final : public v1::Completion::CallbackService {
 public:
  // `options` outlives the service.
  GrpcCompletionService(const GrpcServer::Options& options, std::shared_ptr<CallPump> pump);

  void Serve(CompletionService& service) { service_ = &service; }
  void SetLimits(const RequestLimits& limits, std::chrono::milliseconds stall_time);
  void Drain() { draining_ = true; }

  // Whether a call made now would find somebody to answer it.
  bool is_serving() const { return service_ != nullptr && !draining_; }

  grpc::ServerUnaryReactor* Complete(grpc::CallbackServerContext* context, const v1::CompletionRequest* request,
                                     v1::CompletionResponse* response) override;
  grpc::ServerWriteReactor<v1::CompletionEvent>* Stream(grpc::CallbackServerContext* context,
                                                        const v1::CompletionRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;

 private:
  // The key's id ("" for anonymous), or Unauthenticated.
  absl::StatusOr<std::string> Authorize(const grpc::CallbackServerContext& context) const;

  // The one who makes completions, or Unavailable: loading or draining.
  absl::StatusOr<CompletionService*> Service() const;

  // Both of the above: what the calls of a tokenizer begin with.
  struct Caller {
    CompletionService* service = nullptr;
    std::string api_key_id;
  };
  absl::StatusOr<Caller> FindCaller(const grpc::CallbackServerContext& context) const;

  // Answers with what `work` says: at once, or, when what it works on has a `size` that takes long, from long_work_.
  grpc::ServerUnaryReactor* AnswerLater(grpc::CallbackServerContext& context, size_t size,
                                        std::function<absl::Status()> work);

  // Names the call, before anything is asked of it: `x-request-id`, also in the answer's initial metadata.
  CallOrigin Arrive(grpc::CallbackServerContext& context) const;

  // What comes before a completion once it is known who asks: of whom, and for what. Applies the call's deadline.
  struct Admitted {
    CompletionService* service = nullptr;
    CompletionRequest request;
  };
  absl::StatusOr<Admitted> Admit(const grpc::CallbackServerContext& context, std::string api_key_id,
                                 const v1::CompletionRequest& request, bool stream) const;

  // The limits of a call: those that held when it began.
  struct CallLimits {
    ProtoDecodeOptions decode;
    std::chrono::milliseconds stall_time{0};
  };

  const GrpcServer::Options& options_;  // whose limits are those at the start
  Replaceable<CallLimits> limits_;
  const std::shared_ptr<CallPump> pump_;
  std::atomic<CompletionService*> service_ = nullptr;
  std::atomic<bool> draining_ = false;
  WorkQueue long_work_{/*num_threads=*/1, /*max_waiting=*/64};
};

}  // namespace optserve
