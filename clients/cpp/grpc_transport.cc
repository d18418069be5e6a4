#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/grpcpp.h>

#include <fstream>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "clients/cpp/transport.h"
#include "optserve/client/error_info.h"
#include "optserve/v1/completion.grpc.pb.h"

namespace optserve::client {
namespace {

absl::Status StatusOf(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  ErrorInfo info;
  google::rpc::Status rich;
  if (rich.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& detail : rich.details()) {
      google::rpc::ErrorInfo reason;
      google::rpc::BadRequest fields;
      google::rpc::RetryInfo retry;
      if (detail.UnpackTo(&reason)) info.code = reason.reason();
      if (detail.UnpackTo(&fields) && !fields.field_violations().empty())
        info.param = fields.field_violations(0).field();
      if (detail.UnpackTo(&retry)) {
        info.retry_after =
            std::chrono::milliseconds(retry.retry_delay().seconds() * 1000 + retry.retry_delay().nanos() / 1'000'000);
      }
    }
  }
  const auto code = static_cast<absl::StatusCode>(status.error_code());  // the numbers are the same
  return WithErrorInfo(absl::Status(code, status.error_message()), info);
}

// A call's context, which a stop_token may cancel from another thread.
class Context {
 public:
  Context(const Attempt& attempt, const std::string& api_key)
      : on_stop_(attempt.stop, [this] { context_.TryCancel(); }) {
    const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(attempt.deadline - Clock::now());
    context_.set_deadline(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_nanos(left.count(), GPR_TIMESPAN)));
    if (!api_key.empty()) context_.AddMetadata("authorization", "Bearer " + api_key);
    if (!attempt.request_id.empty()) context_.AddMetadata("x-request-id", attempt.request_id);
  }

  grpc::ClientContext& get() { return context_; }

 private:
  grpc::ClientContext context_;
  std::stop_callback<std::function<void()>> on_stop_;  // destroyed first, and then no longer running
};

// One streamed call of a service.
class GrpcEvents : public EventSource {
 public:
  GrpcEvents(v1::Completion::Stub& service, const v1::CompletionRequest& request, const Attempt& attempt,
             const std::string& api_key)
      : context_(attempt, api_key), attempt_(attempt) {
    NoteSent(attempt_);
    reader_ = service.Stream(&context_.get(), request);
  }

  ~GrpcEvents() override {
    if (!is_finished_) Cancel();
  }

  absl::StatusOr<bool> Next(v1::CompletionEvent& event) override {
    const bool has_come = reader_->Read(&event);
    NoteReceived(attempt_);
    if (has_come) return true;
    is_finished_ = true;
    const grpc::Status status = reader_->Finish();
    NoteReceived(attempt_);
    if (!status.ok()) return StatusOf(status);
    return false;
  }

  void Cancel() override {
    context_.get().TryCancel();
    is_finished_ = true;
    (void)reader_->Finish();  // Cancelled, or what came before
  }

 private:
  Context context_;
  const Attempt attempt_;
  std::unique_ptr<grpc::ClientReader<v1::CompletionEvent>> reader_;
  bool is_finished_ = false;
};

class GrpcTransport : public Transport {
 public:
  GrpcTransport(const std::shared_ptr<grpc::Channel>& channel, std::string api_key)
      : stub_(v1::Completion::NewStub(channel)), api_key_(std::move(api_key)) {}

  absl::StatusOr<v1::CompletionResponse> Complete(const v1::CompletionRequest& request,
                                                  const Attempt& attempt) override {
    return Call<v1::CompletionResponse>(&v1::Completion::Stub::Complete, request, attempt);
  }

  absl::StatusOr<std::unique_ptr<EventSource>> Stream(const v1::CompletionRequest& request,
                                                      const Attempt& attempt) override {
    return std::make_unique<GrpcEvents>(*stub_, request, attempt, api_key_);
  }

  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request, const Attempt& attempt) override {
    return Call<v1::TokenizeResponse>(&v1::Completion::Stub::Tokenize, request, attempt);
  }

  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request,
                                                    const Attempt& attempt) override {
    return Call<v1::DetokenizeResponse>(&v1::Completion::Stub::Detokenize, request, attempt);
  }

  absl::StatusOr<v1::ListModelsResponse> ListModels(const Attempt& attempt) override {
    return Call<v1::ListModelsResponse>(&v1::Completion::Stub::ListModels, v1::ListModelsRequest(), attempt);
  }

  absl::StatusOr<std::string> Metrics(const Attempt&) override {
    return absl::UnimplementedError("gRPC has no metrics; use the server's http:// address");
  }

  absl::StatusOr<std::string> DebugSteps(const Attempt&) override {
    return absl::UnimplementedError("gRPC does not tell of steps; use the server's http:// address");
  }

 private:
  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(grpc::Status (v1::Completion::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                             Response*),
                                const Request& request, const Attempt& attempt) {
    Context context(attempt, api_key_);
    Response response;
    NoteSent(attempt);
    const grpc::Status status = ((*stub_).*method)(&context.get(), request, &response);
    NoteReceived(attempt);
    if (!status.ok()) return StatusOf(status);
    return response;
  }

  std::unique_ptr<v1::Completion::Stub> stub_;
  std::string api_key_;
};

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> CredentialsOf(const ClientOptions& options,
                                                                        const Address& address) {
  if (!address.has_tls) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions tls;
  if (!options.tls.ca_file.empty()) {
    std::ifstream file(options.tls.ca_file, std::ios::binary);
    tls.pem_root_certs.assign(std::istreambuf_iterator<char>(file), {});
    if (!file || tls.pem_root_certs.find("BEGIN CERTIFICATE") == std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot read certificates of '", options.tls.ca_file, "': no PEM file of certificates"));
    }
  }
  return grpc::SslCredentials(tls);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakeGrpcTransport(const ClientOptions& options, const Address& address) {
  const absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> credentials = CredentialsOf(options, address);
  if (!credentials.ok()) return credentials.status();
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(std::min<size_t>(options.max_answer_bytes, 1 << 30)));
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);  // ours are the only ones (client.cc)
  // A new attempt is ours to pace; gRPC's own pause of a second would only make it fail at once.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(options.connect_timeout.count()));
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a client's connection is its own
  if (!options.tls.server_name.empty()) arguments.SetSslTargetNameOverride(options.tls.server_name);
  const bool is_v6 = address.host.find(':') != std::string::npos;
  const std::string target = absl::StrCat("dns:///", is_v6 ? "[" : "", address.host, is_v6 ? "]:" : ":", address.port);
  return std::make_unique<GrpcTransport>(grpc::CreateCustomChannel(target, *credentials, arguments), options.api_key);
}

}  // namespace optserve::client
