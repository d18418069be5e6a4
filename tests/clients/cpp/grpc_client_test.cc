#include <gmock/gmock.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "optserve/client/client.h"
#include "optserve/client/error_info.h"
#include "optserve/v1/completion.grpc.pb.h"
#include "tests/clients/cpp/stream_of.h"

// The client over gRPC against a service that does what these tests want.

namespace optserve::client {
namespace {

using namespace std::chrono_literals;  // NOLINT: the point of them
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr RetryPolicy kFast = {.max_attempts = 3, .initial_backoff = 1ms, .max_backoff = 5ms};

// What a test makes of a call: `attempt` counts from 1.
class Service : public v1::Completion::Service {
 public:
  std::function<grpc::Status(int attempt, v1::CompletionResponse*)> on_complete;
  std::function<grpc::Status(int attempt, grpc::ServerWriter<v1::CompletionEvent>*)> on_stream;
  std::atomic<int> attempts{0};
  std::atomic<bool> was_cancelled{false};

  // Metadata of the last call.
  std::string Metadata(const std::string& key) {
    const std::lock_guard lock(mutex_);
    return metadata_[key];
  }

  grpc::Status Complete(grpc::ServerContext* context, const v1::CompletionRequest*,
                        v1::CompletionResponse* response) override {
    Remember(*context);
    const grpc::Status status = on_complete(++attempts, response);
    was_cancelled = context->IsCancelled();
    return status;
  }

  grpc::Status Stream(grpc::ServerContext* context, const v1::CompletionRequest*,
                      grpc::ServerWriter<v1::CompletionEvent>* writer) override {
    Remember(*context);
    const grpc::Status status = on_stream(++attempts, writer);
    was_cancelled = context->IsCancelled();
    return status;
  }

 private:
  void Remember(const grpc::ServerContext& context) {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, value] : context.client_metadata()) {
      metadata_[std::string(key.data(), key.size())] = std::string(value.data(), value.size());
    }
  }

  std::mutex mutex_;
  std::map<std::string, std::string> metadata_;
};

class GrpcClientTest : public ::testing::Test {
 protected:
  GrpcClientTest() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    address_ = "grpc://127.0.0.1:" + std::to_string(port);
  }
  ~GrpcClientTest() override {
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
  }

  std::unique_ptr<Client> MakeClient(ClientOptions options = {.retry = kFast}) const {
    options.address = address_;
    return Client::Create(options).value();
  }

  Service service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

grpc::Status Rich(grpc::StatusCode code, const std::string& message, const google::protobuf::Message& detail) {
  google::rpc::Status rich;
  rich.set_code(code);
  rich.set_message(message);
  rich.add_details()->PackFrom(detail);
  return {code, message, rich.SerializeAsString()};
}

v1::CompletionEvent EventOf(const std::string& text) {
  v1::CompletionEvent event;
  event.add_choices()->set_text(text);
  return event;
}

TEST_F(GrpcClientTest, ShowsItsKeyAndRequestId) {
  service_.on_complete = [](int, v1::CompletionResponse*) { return grpc::Status::OK; };
  EXPECT_TRUE(MakeClient({.api_key = "sk-1"})->Complete({}, {.request_id = "mine"}).ok());
  EXPECT_EQ(service_.Metadata("authorization"), "Bearer sk-1");
  EXPECT_EQ(service_.Metadata("x-request-id"), "mine");
}

TEST_F(GrpcClientTest, WaitsAsLongAsRetryInfoSays) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_nanos(200'000'000);
  service_.on_complete = [&](int attempt, v1::CompletionResponse*) {
    return attempt == 1 ? Rich(grpc::StatusCode::RESOURCE_EXHAUSTED, "busy", retry) : grpc::Status::OK;
  };
  const auto began = std::chrono::steady_clock::now();
  EXPECT_TRUE(MakeClient()->Complete({}).ok());
  EXPECT_GE(std::chrono::steady_clock::now() - began, 200ms);
  EXPECT_EQ(service_.attempts, 2);
}

TEST_F(GrpcClientTest, SaysWhatTheDetailsSay) {
  google::rpc::BadRequest fields;
  fields.add_field_violations()->set_field("temperature");
  service_.on_complete = [&](int, v1::CompletionResponse*) {
    return Rich(grpc::StatusCode::INVALID_ARGUMENT, "too hot", fields);
  };
  const absl::Status bad = MakeClient()->Complete({}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(bad));
  EXPECT_EQ(bad.message(), "too hot");
  EXPECT_EQ(ErrorInfoOf(bad), ErrorInfo{.param = "temperature"});

  google::rpc::ErrorInfo reason;
  reason.set_reason("model_not_found");
  service_.on_complete = [&](int, v1::CompletionResponse*) { return Rich(grpc::StatusCode::NOT_FOUND, "x", reason); };
  EXPECT_EQ(ErrorInfoOf(MakeClient()->Complete({}).status()).code, "model_not_found");
  service_.on_complete = [&](int, v1::CompletionResponse*) {
    return grpc::Status(grpc::StatusCode::INTERNAL, "x", "\xFF no message of ours");
  };
  EXPECT_EQ(ErrorInfoOf(MakeClient()->Complete({}).status()), ErrorInfo{});
}

TEST_F(GrpcClientTest, AStreamThatFailsBeforeItsFirstEventIsTriedAgain) {
  service_.on_stream = [](int attempt, grpc::ServerWriter<v1::CompletionEvent>* writer) {
    if (attempt < 3) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "loading");
    writer->Write(EventOf("a"));
    return grpc::Status::OK;
  };
  const Streamed streamed = StreamOf(*MakeClient());
  EXPECT_TRUE(streamed.status.ok()) << streamed.status;
  EXPECT_THAT(streamed.texts, ElementsAre("a"));
  EXPECT_EQ(service_.attempts, 3);
}

TEST_F(GrpcClientTest, AStreamThatBreaksLaterIsAnError) {
  service_.on_stream = [](int, grpc::ServerWriter<v1::CompletionEvent>* writer) {
    writer->Write(EventOf("a"));
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone");
  };
  const Streamed streamed = StreamOf(*MakeClient());
  EXPECT_THAT(streamed.texts, ElementsAre("a"));
  EXPECT_TRUE(absl::IsUnavailable(streamed.status));
  EXPECT_EQ(service_.attempts, 1);
}

TEST_F(GrpcClientTest, AServerThatGoesInTheMiddleOfAStreamIsAnError) {
  std::atomic<bool> has_begun{false};
  service_.on_stream = [&](int, grpc::ServerWriter<v1::CompletionEvent>* writer) {
    writer->Write(EventOf("a"));
    has_begun = true;
    while (writer->Write(EventOf(""))) std::this_thread::sleep_for(5ms);
    return grpc::Status::OK;
  };
  std::thread end([&] {
    while (!has_begun) std::this_thread::sleep_for(5ms);
    server_->Shutdown(std::chrono::system_clock::now());
  });
  const Streamed streamed = StreamOf(*MakeClient());
  end.join();
  EXPECT_EQ(streamed.texts.at(0), "a");
  EXPECT_FALSE(streamed.status.ok());
}

TEST_F(GrpcClientTest, AnAnswerThatIsTooLargeIsAnError) {
  service_.on_complete = [](int, v1::CompletionResponse* response) {
    response->add_choices()->set_text(std::string(200'000, 'x'));
    return grpc::Status::OK;
  };
  const absl::Status status =
      MakeClient({.retry = {.max_attempts = 1}, .max_answer_bytes = 100'000})->Complete({}).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

TEST_F(GrpcClientTest, ADeadlineEndsCallsAndStreams) {
  service_.on_complete = [](int, v1::CompletionResponse*) {
    std::this_thread::sleep_for(300ms);
    return grpc::Status::OK;
  };
  service_.on_stream = [](int, grpc::ServerWriter<v1::CompletionEvent>* writer) {
    while (writer->Write(EventOf("a"))) std::this_thread::sleep_for(20ms);
    return grpc::Status::OK;
  };
  EXPECT_TRUE(absl::IsDeadlineExceeded(MakeClient()->Complete({}, {.timeout = 50ms}).status()));
  const Streamed streamed = StreamOf(*MakeClient(), {.timeout = 1s});
  EXPECT_THAT(streamed.texts, ::testing::Not(IsEmpty()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(streamed.status)) << streamed.status;
  EXPECT_TRUE(absl::IsDeadlineExceeded(MakeClient()->Complete({}, {.timeout = -1ms}).status()));
}

TEST_F(GrpcClientTest, AnotherThreadCancelsAStream) {
  std::atomic<bool> has_begun{false};
  service_.on_stream = [&](int, grpc::ServerWriter<v1::CompletionEvent>* writer) {
    while (writer->Write(EventOf("a"))) std::this_thread::sleep_for(5ms);
    return grpc::Status::OK;
  };
  std::stop_source source;
  std::thread stopper([&] {
    while (!has_begun) std::this_thread::sleep_for(5ms);
    source.request_stop();
  });
  const absl::Status status = MakeClient()->Stream({}, [&](const v1::CompletionEvent&) { has_begun = true; },
                                                   {.timeout = 10s, .stop = source.get_token()});
  has_begun = true;
  stopper.join();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

TEST_F(GrpcClientTest, AStreamThatIsLeftIsCancelled) {
  std::atomic<bool> ended{false};
  service_.on_stream = [&](int, grpc::ServerWriter<v1::CompletionEvent>* writer) {
    while (writer->Write(EventOf("a"))) std::this_thread::sleep_for(5ms);
    ended = true;
    return grpc::Status::OK;
  };
  const auto client = MakeClient();
  {
    absl::StatusOr<CompletionStream> stream = client->Stream({});
    ASSERT_TRUE(stream.ok());
    EXPECT_EQ(stream->Next()->choices(0).text(), "a");
  }
  for (int i = 0; i < 200 && !ended; ++i) std::this_thread::sleep_for(10ms);
  EXPECT_TRUE(ended);
}

// The service has no call for them: they are a page of HTTP, and the client says so without asking.
TEST_F(GrpcClientTest, HasNoMetrics) {
  const absl::Status status = MakeClient()->Metrics().status();
  EXPECT_TRUE(absl::IsUnimplemented(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("http://"));
}

TEST(GrpcConnectionTest, NobodyThereIsUnavailable) {
  const auto client = Client::Create({.address = "grpc://127.0.0.1:9", .retry = kFast}).value();
  const auto began = std::chrono::steady_clock::now();
  EXPECT_TRUE(absl::IsUnavailable(client->Complete({}).status()));
  EXPECT_LT(std::chrono::steady_clock::now() - began, 3s);
}

}  // namespace
}  // namespace optserve::client
