#pragma once

#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "optserve/v1/completion.grpc.pb.h"
#include "server/completion/completion_service.h"
#include "server/grpc/grpc_server.h"
#include "server/text/tokenizer.h"
#include "tests/support/fake_engine_client.h"

namespace optserve {

// A GrpcServer on a free port of the loopback in front of an engine without a model, and a client of it.
class GrpcFixture : public testing::Test {
 protected:
  using Pace = FakeEngineClient::Pace;
  static constexpr char kModelName[] = "demo";

  static GrpcServer::Options ServerOptions() {
    GrpcServer::Options options;
    options.port = 0;
    options.served_model_name = kModelName;
    return options;
  }

  // All of it: engine, service, server, channel.
  void StartAll(FakeEngineClient::Options engine = {}, GrpcServer::Options server = ServerOptions()) {
    MakeService(std::move(engine));
    StartServer(std::move(server));
    server_->Serve(*service_);
  }

  // The same with an engine that takes a step when a test says so.
  void StartAllByHand() {
    FakeEngineClient::Options engine;
    engine.pace = Pace::kByHand;
    StartAll(std::move(engine));
  }

  void MakeService(FakeEngineClient::Options engine, bool with_tokenizer = true) {
    engine_ = std::make_unique<FakeEngineClient>(std::move(engine));
    std::optional<Tokenizer> tokenizer;
    if (with_tokenizer) {
      absl::StatusOr<Tokenizer> loaded = Tokenizer::Load("deploy/demo-model");
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      tokenizer = *std::move(loaded);
    }
    CompletionService::Options options;
    options.served_model_name = kModelName;
    options.model_created = 1234;
    service_ = std::make_unique<CompletionService>(*engine_, std::move(tokenizer), options);
  }

  void StartServer(GrpcServer::Options options) {
    absl::StatusOr<std::unique_ptr<GrpcServer>> server = GrpcServer::Start(std::move(options));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of this test's own
    channel_ = grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Completion::NewStub(channel_);
  }

  static v1::CompletionRequest Request(const std::string& prompt, int max_tokens = 8) {
    v1::CompletionRequest request;
    request.add_prompt()->set_text(prompt);
    request.set_max_tokens(max_tokens);
    request.set_temperature(0);
    return request;
  }

  grpc::Status Complete(const v1::CompletionRequest& request, v1::CompletionResponse* response = nullptr) {
    grpc::ClientContext context;
    v1::CompletionResponse unused;
    return stub_->Complete(&context, request, response != nullptr ? response : &unused);
  }

  grpc::Status Stream(const v1::CompletionRequest& request, std::vector<v1::CompletionEvent>* events = nullptr) {
    grpc::ClientContext context;
    const auto reader = stub_->Stream(&context, request);
    v1::CompletionEvent event;
    while (reader->Read(&event)) {
      if (events != nullptr) events->push_back(event);
    }
    return reader->Finish();
  }

  static std::string Reason(const grpc::Status& status) { return Detail<google::rpc::ErrorInfo>(status).reason(); }

  // "" when there is none.
  static std::string Field(const grpc::Status& status) {
    const auto details = Detail<google::rpc::BadRequest>(status);
    return details.field_violations().empty() ? "" : details.field_violations(0).field();
  }

  static int64_t RetrySeconds(const grpc::Status& status) {
    return Detail<google::rpc::RetryInfo>(status).retry_delay().seconds();
  }

  // Whether it becomes true within a few seconds.
  static bool Eventually(const std::function<bool()>& condition) {
    for (int i = 0; i < 1000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return condition();
  }

  std::unique_ptr<FakeEngineClient> engine_;
  std::unique_ptr<CompletionService> service_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Completion::Stub> stub_;

 private:
  template <typename M>
  static M Detail(const grpc::Status& status) {
    google::rpc::Status rich;
    M message;
    if (!rich.ParseFromString(status.error_details())) return message;
    for (const google::protobuf::Any& any : rich.details()) {
      if (any.UnpackTo(&message)) break;
    }
    return message;
  }
};

}  // namespace optserve
