// What the log tells of a call: the lines of HTTP (tests/server/http/http_server_test.cc), and no text.

#include <gmock/gmock.h>

#include <cstdio>

#include "engine/util/log.h"
#include "tests/server/grpc/grpc_fixture.h"

namespace optserve {
namespace {

using grpc::StatusCode;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

class GrpcLogTest : public GrpcFixture {
 protected:
  GrpcLogTest() : file_(std::tmpfile()), log_(LogFormat::kText, file_) {}
  ~GrpcLogTest() override {
    server_.reset();  // before the log
    std::fclose(file_);
  }

  void StartLogging() {
    FakeEngineClient::Options engine;
    engine.pace = Pace::kByHand;
    GrpcServer::Options server = ServerOptions();
    server.log = &log_;
    server.authorize = [](std::string_view authorization, std::string_view) -> absl::StatusOr<std::string> {
      if (authorization == "Bearer secret-key") return "key-1";
      return absl::UnauthenticatedError("the API key is wrong");
    };
    StartAll(std::move(engine), std::move(server));
  }

  // Runs everything that is submitted to its end.
  std::thread StepToTheEnd() {
    return std::thread([this] {
      EXPECT_TRUE(Eventually([&] { return engine_->num_live() == 1; }));
      while (engine_->Step()) {
      }
    });
  }

  // The id that the answer's metadata names.
  static std::string AnsweredId(const grpc::ClientContext& context) {
    const auto& metadata = context.GetServerInitialMetadata();
    const auto found = metadata.find("x-request-id");
    return found == metadata.end() ? "" : std::string(found->second.data(), found->second.size());
  }

  static void Ask(grpc::ClientContext& context, const char* request_id) {
    context.AddMetadata("authorization", "Bearer secret-key");
    context.AddMetadata("x-request-id", request_id);
  }

  std::string Logged() {
    std::rewind(file_);
    std::string text;
    for (int c = std::fgetc(file_); c != EOF; c = std::fgetc(file_)) text += static_cast<char>(c);
    return text;
  }

  bool EventuallyLogged(const std::string& what) {
    return Eventually([&] { return Logged().find(what) != std::string::npos; });
  }

  std::FILE* const file_;
  const Log log_;
};

TEST_F(GrpcLogTest, ACompletionIsALineHoweverItIsCalled) {
  StartLogging();
  {
    grpc::ClientContext context;
    Ask(context, "first");
    v1::CompletionResponse response;
    std::thread engine = StepToTheEnd();
    EXPECT_TRUE(stub_->Complete(&context, Request("A secret prompt", 3), &response).ok());
    engine.join();
    EXPECT_EQ(AnsweredId(context), "first");
    EXPECT_TRUE(EventuallyLogged("id=" + response.id() + " key=key-1 "));
  }
  {
    grpc::ClientContext context;
    Ask(context, "second");
    std::thread engine = StepToTheEnd();
    const auto reader = stub_->Stream(&context, Request("A secret prompt", 3));
    v1::CompletionEvent event;
    while (reader->Read(&event)) {
    }
    EXPECT_TRUE(reader->Finish().ok());
    engine.join();
    EXPECT_TRUE(EventuallyLogged("request_id=second"));
  }
  const std::string text = Logged();
  for (const std::string id : {"first", "second"}) {
    EXPECT_THAT(text,
                ContainsRegex(" info completion request_id=" + id +
                              " trace_id=\"\" id=cmpl-[0-9a-f]+ key=key-1 protocol=grpc status=200 "
                              "seconds=[0-9.e-]+ prompt_tokens=[1-9][0-9]* cached_tokens=0 completion_tokens=3\n"));
  }
  EXPECT_THAT(text, Not(HasSubstr("secret")));
  EXPECT_THAT(text, Not(HasSubstr("request_failed")));
}

TEST_F(GrpcLogTest, SaysWhatWentWrongWithHttpsNumbers) {
  StartLogging();
  for (const bool stream : {false, true}) {
    engine_->RefuseWith(absl::InternalError("the detail"));
    const char* const id = stream ? "streamed" : "whole";
    grpc::ClientContext context;
    Ask(context, id);
    grpc::Status status;
    if (stream) {
      const auto reader = stub_->Stream(&context, Request("A secret prompt"));
      status = reader->Finish();
    } else {
      v1::CompletionResponse response;
      status = stub_->Complete(&context, Request("A secret prompt"), &response);
    }
    EXPECT_EQ(status.error_code(), StatusCode::INTERNAL);
    EXPECT_THAT(status.error_message(), Not(HasSubstr("the detail")));
    EXPECT_TRUE(EventuallyLogged(std::string(" completion request_id=") + id));
    EXPECT_THAT(Logged(), ContainsRegex(std::string(" error request_failed request_id=") + id +
                                        " trace_id=\"\" protocol=grpc why=.*the detail"));
    EXPECT_THAT(Logged(), ContainsRegex(std::string(" completion request_id=") + id + " .* status=500 "));
  }
  engine_->RefuseWith(absl::ResourceExhaustedError("full"));
  grpc::ClientContext context;
  Ask(context, "refused");
  v1::CompletionResponse response;
  EXPECT_EQ(stub_->Complete(&context, Request("A secret prompt"), &response).error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(EventuallyLogged("request_id=refused"));
  EXPECT_THAT(Logged(), ContainsRegex(" completion request_id=refused .* status=429 "));
  EXPECT_THAT(Logged(), Not(HasSubstr("secret")));
}

TEST_F(GrpcLogTest, AClientThatLeavesIs499) {
  StartLogging();
  grpc::ClientContext context;
  Ask(context, "left");
  const auto reader = stub_->Stream(&context, Request("A secret prompt", 100));
  ASSERT_TRUE(Eventually([&] { return engine_->num_live() == 1; }));
  engine_->Step();
  v1::CompletionEvent event;
  ASSERT_TRUE(reader->Read(&event));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  EXPECT_TRUE(EventuallyLogged("request_id=left"));
  EXPECT_THAT(Logged(), ContainsRegex(" completion request_id=left .* status=499 .* completion_tokens=1\n"));
}

TEST_F(GrpcLogTest, AnIdThatIsNotSaneIsReplaced) {
  StartLogging();
  grpc::ClientContext context;
  Ask(context, "two words");
  v1::CompletionResponse response;
  std::thread engine = StepToTheEnd();
  EXPECT_TRUE(stub_->Complete(&context, Request("Call me", 1), &response).ok());
  engine.join();
  EXPECT_THAT(AnsweredId(context), testing::MatchesRegex("req-[0-9a-f]+"));
  EXPECT_TRUE(EventuallyLogged("request_id=" + AnsweredId(context)));
}

}  // namespace
}  // namespace optserve
