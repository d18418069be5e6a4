// What is true of the server whoever calls: its port, health, reflection and limits.

#include "server/grpc/grpc_server.h"

#include <gmock/gmock.h>
#include <grpcpp/impl/codegen/client_unary_call.h>
#include <grpcpp/support/sync_stream.h>

#include <atomic>
#include <cstdio>

#include "tests/server/grpc/grpc_fixture.h"

namespace optserve {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

constexpr char kService[] = "optserve.v1.Completion";

// grpc.health.v1.HealthCheckResponse.ServingStatus.
enum Serving { kUnknown = 0, kServing = 1, kNotServing = 2, kServiceUnknown = 3 };

// The health protocol's messages have one field each, number 1: a string and an enum. These are the same on the wire.
using HealthCheckRequest = google::protobuf::StringValue;
using HealthCheckResponse = google::protobuf::Int32Value;

class GrpcServerTest : public GrpcFixture {
 protected:
  grpc::Status Check(const std::string& service, int* serving) {
    grpc::ClientContext context;
    HealthCheckRequest request;
    request.set_value(service);
    HealthCheckResponse response;
    const grpc::internal::RpcMethod method("/grpc.health.v1.Health/Check", grpc::internal::RpcMethod::NORMAL_RPC);
    const grpc::Status status = grpc::internal::BlockingUnaryCall(channel_.get(), method, &context, request, &response);
    *serving = response.value();
    return status;
  }

  int Health(const std::string& service) {
    int serving = -1;
    EXPECT_TRUE(Check(service, &serving).ok());
    return serving;
  }
};

TEST_F(GrpcServerTest, HealthIsReadinessOfTheService) {
  MakeService({});
  GrpcServer::Options options = ServerOptions();
  std::atomic<bool> ready = true;
  options.ready = [&] { return ready ? absl::OkStatus() : absl::UnavailableError("the canary died"); };
  StartServer(options);
  EXPECT_EQ(Health(""), kServing);
  EXPECT_EQ(Health(kService), kNotServing);  // no model yet
  server_->Serve(*service_);
  EXPECT_EQ(Health(kService), kServing);
  ready = false;
  EXPECT_TRUE(Eventually([&] { return Health(kService) == kNotServing; }));
  EXPECT_EQ(Health(""), kServing);
  ready = true;
  EXPECT_TRUE(Eventually([&] { return Health(kService) == kServing; }));
  server_->Drain();
  EXPECT_EQ(Health(kService), kNotServing);
  int serving = 0;
  EXPECT_EQ(Check("nonsense", &serving).error_code(), StatusCode::NOT_FOUND);
}

TEST_F(GrpcServerTest, HealthCanBeWatched) {
  StartAll();
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_value(kService);
  const grpc::internal::RpcMethod method("/grpc.health.v1.Health/Watch", grpc::internal::RpcMethod::SERVER_STREAMING);
  const std::unique_ptr<grpc::ClientReader<HealthCheckResponse>> reader(
      grpc::internal::ClientReaderFactory<HealthCheckResponse>::Create(channel_.get(), method, &context, request));
  HealthCheckResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.value(), kServing);
  server_->Drain();
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.value(), kNotServing);
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
}

TEST_F(GrpcServerTest, ReflectionListsTheService) {
  StartAll();
  grpc::ClientContext context;
  const grpc::internal::RpcMethod method("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                         grpc::internal::RpcMethod::BIDI_STREAMING);
  const std::unique_ptr<grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>> stream(
      grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(channel_.get(), method,
                                                                                            &context));
  const grpc::Slice list_services("\x3a\x00", 2);  // field 7, the empty string
  ASSERT_TRUE(stream->Write(grpc::ByteBuffer(&list_services, 1)));
  grpc::ByteBuffer response;
  ASSERT_TRUE(stream->Read(&response));
  grpc::Slice slice;
  ASSERT_TRUE(response.DumpToSingleSlice(&slice).ok());
  EXPECT_THAT(std::string(slice.begin(), slice.end()), HasSubstr(kService));
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(GrpcServerTest, SaysWhichPortIsTaken) {
  StartServer(ServerOptions());
  GrpcServer::Options options = ServerOptions();
  options.port = server_->port();
  const absl::Status status = GrpcServer::Start(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(server_->address()));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--grpc-port"));
  EXPECT_EQ(status.message().find('\n'), std::string::npos);
  server_.reset();
  EXPECT_TRUE(GrpcServer::Start(options).ok());  // and it is free again at once
}

TEST_F(GrpcServerTest, SaysWhichHostIsWrong) {
  GrpcServer::Options options = ServerOptions();
  options.host = "300.1.2.3";
  EXPECT_EQ(GrpcServer::Start(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.host = "203.0.113.1";  // for documentation: nobody's
  const absl::Status status = GrpcServer::Start(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("203.0.113.1:0"));
}

TEST_F(GrpcServerTest, WarnsWhenOthersCanReachIt) {
  for (const bool loopback : {true, false}) {
    std::FILE* file = std::tmpfile();
    {
      const Log log(LogFormat::kText, file);
      GrpcServer::Options options = ServerOptions();
      options.host = loopback ? "localhost" : "0.0.0.0";
      options.log = &log;
      StartServer(options);
      server_.reset();
    }
    std::fflush(file);
    std::rewind(file);
    char line[512] = {};
    EXPECT_EQ(std::fgets(line, sizeof(line), file) != nullptr, !loopback);
    EXPECT_THAT(std::string(line), HasSubstr(loopback ? "" : "grpc_is_not_on_loopback"));
    std::fclose(file);
  }
}

TEST_F(GrpcServerTest, RefusesMessagesThatAreTooLong) {
  GrpcServer::Options options = ServerOptions();
  options.max_request_bytes = 10'000;
  StartAll({}, options);
  const grpc::Status status = Complete(Request(std::string(20'000, 'a')));
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Complete(Request("Call me")).ok());
}

// A message that was compressed would get past the limit above.
TEST_F(GrpcServerTest, RefusesCompressedMessages) {
  StartAll();
  for (const grpc_compression_algorithm algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    grpc::ClientContext context;
    context.set_compression_algorithm(algorithm);
    v1::CompletionResponse response;
    EXPECT_EQ(stub_->Complete(&context, Request(std::string(500, 'a')), &response).error_code(),
              StatusCode::UNIMPLEMENTED);
  }
  EXPECT_TRUE(engine_->submitted().empty());
}

TEST_F(GrpcServerTest, TextThatIsNotUtf8IsRefused) {
  StartAll();
  // CompletionRequest { prompt: { text: "\xff" } }, which the generated class would not send.
  const grpc::Slice bytes(std::string("\x12\x03\x0a\x01\xff", 5));
  const grpc::ByteBuffer request(&bytes, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  const grpc::internal::RpcMethod method("/optserve.v1.Completion/Complete", grpc::internal::RpcMethod::NORMAL_RPC);
  EXPECT_FALSE(
      (grpc::internal::BlockingUnaryCall<grpc::ByteBuffer, grpc::ByteBuffer, grpc::ByteBuffer, grpc::ByteBuffer>(
           channel_.get(), method, &context, request, &response)
           .ok()));
  EXPECT_TRUE(engine_->submitted().empty());
  EXPECT_TRUE(Complete(Request("Call me")).ok());
}

}  // namespace
}  // namespace optserve
