// What the methods of optserve.v1.Completion answer, over a real connection.

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>

#include <atomic>

#include "tests/server/grpc/grpc_fixture.h"

namespace optserve {
namespace {

using grpc::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;

class GrpcCompletionTest : public GrpcFixture {};

// What a stream's pieces make, put together.
v1::Choice Join(const std::vector<v1::CompletionEvent>& events, int index) {
  v1::Choice whole;
  for (const v1::CompletionEvent& event : events) {
    for (const v1::Choice& piece : event.choices()) {
      if (piece.index() != index) continue;
      const std::string text = whole.text() + piece.text();
      whole.MergeFrom(piece);  // appends to lists
      whole.set_text(text);
    }
  }
  return whole;
}

TEST_F(GrpcCompletionTest, StreamsWhatItCompletes) {
  StartAll();
  v1::CompletionRequest request = Request("Call me Ishmael", 20);
  request.add_prompt()->set_text("Some years ago");
  request.set_n(2);
  request.set_temperature(1);
  request.set_seed(5);
  request.set_logprobs(3);
  request.set_prompt_logprobs(1);
  request.set_return_token_ids(true);
  v1::CompletionResponse response;
  ASSERT_TRUE(Complete(request, &response).ok());
  std::vector<v1::CompletionEvent> events;
  ASSERT_TRUE(Stream(request, &events).ok());

  ASSERT_EQ(response.choices_size(), 4);
  EXPECT_EQ(events.size(), 4 * 20);
  for (int i = 0; i < 4; ++i) {
    const v1::Choice& choice = response.choices(i);
    EXPECT_EQ(choice.index(), i);
    EXPECT_EQ(choice.token_ids_size(), 20);
    EXPECT_EQ(choice.logprobs_size(), 20);
    EXPECT_GE(choice.logprobs(0).top_size(), 3);
    EXPECT_EQ(choice.prompt_logprobs_size(), choice.prompt_token_ids_size());
    EXPECT_EQ(choice.finish_reason(), v1::FINISH_REASON_LENGTH);
    EXPECT_FALSE(choice.text().empty());
    const v1::Choice joined = Join(events, i);
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(joined, choice))
        << joined.DebugString() << choice.DebugString();
  }
  EXPECT_NE(response.choices(0).text(), response.choices(1).text());
  EXPECT_EQ(response.usage().completion_tokens(), 80);
  EXPECT_EQ(response.usage().total_tokens(), 80 + response.usage().prompt_tokens());
  EXPECT_EQ(response.model(), kModelName);
  EXPECT_EQ(response.id().substr(0, 5), "cmpl-");
  for (const v1::CompletionEvent& event : events) {
    EXPECT_EQ(event.id(), events[0].id());
    EXPECT_EQ(event.choices_size(), 1);
    EXPECT_FALSE(event.has_usage());
  }
}

TEST_F(GrpcCompletionTest, SaysUsageWhenAsked) {
  StartAll();
  v1::CompletionRequest request = Request("Call me", 3);
  request.mutable_stream_options()->set_include_usage(true);
  std::vector<v1::CompletionEvent> events;
  ASSERT_TRUE(Stream(request, &events).ok());
  ASSERT_EQ(events.size(), 4);
  EXPECT_FALSE(events[2].has_usage());
  EXPECT_EQ(events[3].choices_size(), 0);
  EXPECT_EQ(events[3].usage().completion_tokens(), 3);

  request.mutable_stream_options()->set_include_usage(false);
  request.mutable_stream_options()->set_continuous_usage_stats(true);
  events.clear();
  ASSERT_TRUE(Stream(request, &events).ok());
  ASSERT_EQ(events.size(), 3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(events[i].usage().completion_tokens(), i + 1);
}

TEST_F(GrpcCompletionTest, StreamsAtOnceHaveEachTheirOwnTokens) {
  FakeEngineClient::Options engine;
  engine.pace = Pace::kOwnThread;
  StartAll(std::move(engine));
  constexpr int kThreads = 16;
  std::atomic<int> num_right = 0;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 4; ++round) {
        v1::CompletionRequest request = Request("Chapter " + std::to_string(i * 10 + round), 50);
        request.set_return_token_ids(true);
        std::vector<v1::CompletionEvent> events;
        v1::CompletionResponse response;
        if (!Stream(request, &events).ok() || !Complete(request, &response).ok()) continue;
        const auto equal = google::protobuf::util::MessageDifferencer::Equals;
        if (events.size() == 50 && equal(Join(events, 0), response.choices(0))) ++num_right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_right, kThreads * 4);
  EXPECT_TRUE(server_->WaitUntilIdle(std::chrono::seconds(5)));
}

TEST_F(GrpcCompletionTest, EventsComeWhenTheirTokensDo) {
  StartAllByHand();
  grpc::ClientContext context;
  const auto reader = stub_->Stream(&context, Request("Call me", 3));
  ASSERT_TRUE(Eventually([&] { return engine_->num_live() == 1; }));
  v1::CompletionEvent event;
  for (int i = 0; i < 3; ++i) {
    engine_->Step();
    ASSERT_TRUE(reader->Read(&event)) << i;  // would hang if it waited for another step
  }
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GrpcCompletionTest, AClientThatCancelsFreesItsRequest) {
  StartAllByHand();
  grpc::ClientContext context;
  const auto reader = stub_->Stream(&context, Request("Call me", 100));
  ASSERT_TRUE(Eventually([&] { return engine_->num_live() == 1; }));
  engine_->Step();
  v1::CompletionEvent event;
  ASSERT_TRUE(reader->Read(&event));
  context.TryCancel();
  EXPECT_TRUE(Eventually([&] { return engine_->num_live() == 0; }));  // no step has happened
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  EXPECT_TRUE(server_->WaitUntilIdle(std::chrono::seconds(5)));

  grpc::ClientContext unary_context;
  v1::CompletionResponse response;
  std::thread canceller([&] {
    EXPECT_TRUE(Eventually([&] { return engine_->num_live() == 1; }));
    unary_context.TryCancel();
  });
  EXPECT_EQ(stub_->Complete(&unary_context, Request("Call me", 100), &response).error_code(), StatusCode::CANCELLED);
  canceller.join();
  EXPECT_TRUE(Eventually([&] { return engine_->num_live() == 0; }));
  EXPECT_TRUE(server_->WaitUntilIdle(std::chrono::seconds(5)));
}

TEST_F(GrpcCompletionTest, AClientThatDiesFreesItsRequest) {
  StartAllByHand();
  {
    grpc::ClientContext context;
    const auto reader = stub_->Stream(&context, Request("Call me", 100));
    ASSERT_TRUE(Eventually([&] { return engine_->num_live() == 1; }));
  }  // neither read nor finished
  stub_.reset();
  channel_.reset();
  EXPECT_TRUE(Eventually([&] { return engine_->num_live() == 0; }));
}

TEST_F(GrpcCompletionTest, TheCallsDeadlineIsTheRequests) {
  StartAllByHand();  // it waits in the queue for ever
  for (const bool stream : {false, true}) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(150));
    const auto begin = std::chrono::steady_clock::now().time_since_epoch();
    if (stream) {
      const auto reader = stub_->Stream(&context, Request("Call me"));
      v1::CompletionEvent event;
      EXPECT_FALSE(reader->Read(&event));
      EXPECT_EQ(reader->Finish().error_code(), StatusCode::DEADLINE_EXCEEDED);
    } else {
      v1::CompletionResponse response;
      EXPECT_EQ(stub_->Complete(&context, Request("Call me"), &response).error_code(), StatusCode::DEADLINE_EXCEEDED);
    }
    EXPECT_TRUE(Eventually([&] { return engine_->num_live() == 0; }));
    const int64_t deadline_ns = engine_->submitted().back().deadline_ns;
    const int64_t begin_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(begin).count();
    EXPECT_GT(deadline_ns, begin_ns);
    EXPECT_LT(deadline_ns, begin_ns + 1'000'000'000);
  }
}

TEST_F(GrpcCompletionTest, TheTimeoutOfARequestIsItsDeadline) {
  FakeEngineClient::Options engine;
  engine.pace = Pace::kOwnThread;
  engine.step_time = std::chrono::milliseconds(20);
  StartAll(std::move(engine));
  v1::CompletionRequest request = Request("Call me", 500);
  request.set_timeout(0.1);
  EXPECT_EQ(Complete(request).error_code(), StatusCode::DEADLINE_EXCEEDED);
  std::vector<v1::CompletionEvent> events;
  EXPECT_EQ(Stream(request, &events).error_code(), StatusCode::DEADLINE_EXCEEDED);
  EXPECT_GE(events.size(), 1);
}

TEST_F(GrpcCompletionTest, BadRequestsNameTheField) {
  StartAll();
  v1::CompletionRequest request = Request("Call me");
  request.set_temperature(3);
  for (const grpc::Status& status : {Complete(request), Stream(request)}) {
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(Field(status), "temperature");
    EXPECT_EQ(status.error_message(), "temperature is 3, but must be between 0 and 2");
  }
  request = Request("Call me");
  request.set_model(std::string(100'000, 'x'));
  for (const grpc::Status& status : {Complete(request), Stream(request)}) {
    EXPECT_EQ(status.error_code(), StatusCode::NOT_FOUND);
    EXPECT_EQ(Reason(status), "model_not_found");
  }
  request = Request("Call me", 5000);
  for (const grpc::Status& status : {Complete(request), Stream(request)}) {
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(Reason(status), "context_length_exceeded");
    EXPECT_THAT(status.error_message(), HasSubstr("1024"));
  }
  request = Request("Call me");
  request.mutable_stream_options();
  EXPECT_EQ(Field(Complete(request)), "stream_options");
  EXPECT_TRUE(Stream(request).ok());
  EXPECT_TRUE(server_->WaitUntilIdle(std::chrono::seconds(5)));
}

TEST_F(GrpcCompletionTest, UnknownFieldsAreRefusedUnlessIgnored) {
  v1::CompletionRequest request = Request("Call me");
  request.GetReflection()->MutableUnknownFields(&request)->AddVarint(999, 1);
  StartAll();
  EXPECT_EQ(Field(Complete(request)), "999");
  GrpcServer::Options options = ServerOptions();
  options.ignore_unknown_fields = true;
  StartAll({}, options);
  EXPECT_TRUE(Complete(request).ok());
}

TEST_F(GrpcCompletionTest, NewLimitsHoldForTheNextCall) {
  StartAll();
  v1::CompletionRequest request = Request("Call me");
  request.set_n(4);
  EXPECT_TRUE(Complete(request).ok());
  server_->SetLimits({.max_choices = 3}, std::chrono::seconds(1));
  EXPECT_EQ(Field(Complete(request)), "n");
  EXPECT_EQ(Field(Stream(request)), "n");
  request.set_n(3);
  EXPECT_TRUE(Complete(request).ok());
}

TEST_F(GrpcCompletionTest, AFullQueueSaysWhenToComeBack) {
  StartAll();
  engine_->RefuseWith(absl::ResourceExhaustedError("the queue is full"));
  for (const grpc::Status& status : {Complete(Request("Call me")), Stream(Request("Call me"))}) {
    EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(RetrySeconds(status), 1);
  }
}

TEST_F(GrpcCompletionTest, AnEngineThatDiesEndsTheStreamWithItsStatus) {
  StartAllByHand();
  grpc::ClientContext context;
  const auto reader = stub_->Stream(&context, Request("Call me", 100));
  ASSERT_TRUE(Eventually([&] { return engine_->num_live() == 1; }));
  engine_->Step();
  v1::CompletionEvent event;
  ASSERT_TRUE(reader->Read(&event));
  engine_->Die(absl::UnavailableError("the engine has gone"));
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::UNAVAILABLE);
}

TEST_F(GrpcCompletionTest, RefusesWhileLoadingAndDraining) {
  MakeService({});
  StartServer(ServerOptions());
  for (const grpc::Status& status : {Complete(Request("Call me")), Stream(Request("Call me"))}) {
    EXPECT_EQ(status.error_code(), StatusCode::UNAVAILABLE);
    EXPECT_EQ(Reason(status), "model_loading");
    EXPECT_GE(RetrySeconds(status), 1);
  }
  server_->Serve(*service_);
  EXPECT_TRUE(Complete(Request("Call me")).ok());
  server_->Drain();
  for (const grpc::Status& status : {Complete(Request("Call me")), Stream(Request("Call me"))}) {
    EXPECT_EQ(status.error_code(), StatusCode::UNAVAILABLE);
    EXPECT_EQ(Reason(status), "shutting_down");
  }
}

TEST_F(GrpcCompletionTest, WhatRunsGoesOnWhileDraining) {
  StartAllByHand();
  grpc::ClientContext context;
  const auto reader = stub_->Stream(&context, Request("Call me", 2));
  ASSERT_TRUE(Eventually([&] { return engine_->num_live() == 1; }));
  server_->Drain();
  EXPECT_FALSE(server_->WaitUntilIdle(std::chrono::milliseconds(20)));
  while (engine_->Step()) {
  }
  v1::CompletionEvent event;
  EXPECT_TRUE(reader->Read(&event));
  EXPECT_TRUE(reader->Read(&event));
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(server_->WaitUntilIdle(std::chrono::seconds(5)));
}

TEST_F(GrpcCompletionTest, StopCancelsWhatRuns) {
  StartAllByHand();
  grpc::ClientContext context;
  const auto reader = stub_->Stream(&context, Request("Call me", 100));
  ASSERT_TRUE(Eventually([&] { return engine_->num_live() == 1; }));
  server_->Stop();
  EXPECT_EQ(engine_->num_live(), 0);
  v1::CompletionEvent event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_FALSE(reader->Finish().ok());
  server_.reset();
  engine_->Step();  // its last events find nobody, and that is all right
}

// The stream of a reader that does not read ends; one beside it goes on as if nothing was.
TEST_F(GrpcCompletionTest, AReaderThatStallsIsCancelled) {
  FakeEngineClient::Options engine;
  engine.pace = Pace::kOwnThread;
  engine.step_time = std::chrono::milliseconds(2);
  GrpcServer::Options options = ServerOptions();
  options.stall_time = std::chrono::milliseconds(300);
  StartAll(std::move(engine), options);
  v1::CompletionRequest request = Request("Call me", 900);
  request.set_logprobs(20);
  request.set_n(16);
  request.set_temperature(1);
  grpc::ClientContext context;
  const auto stalled = stub_->Stream(&context, request);  // about 15 MB that nobody reads
  ASSERT_TRUE(Eventually([&] { return engine_->num_live() == 16; }));

  std::vector<v1::CompletionEvent> events;
  EXPECT_TRUE(Stream(Request("Call me", 50), &events).ok());
  EXPECT_EQ(events.size(), 50);

  EXPECT_TRUE(server_->WaitUntilIdle(std::chrono::seconds(10)));
  EXPECT_EQ(engine_->num_live(), 0);
  EXPECT_FALSE(engine_->cancellations().empty());
  v1::CompletionEvent event;
  while (stalled->Read(&event)) {
  }
  EXPECT_EQ(stalled->Finish().error_code(), StatusCode::CANCELLED);
}

TEST_F(GrpcCompletionTest, AsksWhoItIs) {
  GrpcServer::Options options = ServerOptions();
  options.authorize = [](std::string_view authorization, std::string_view address) -> absl::StatusOr<std::string> {
    EXPECT_EQ(address, "127.0.0.1");
    if (authorization == "Bearer secret") return "key-1";
    return absl::UnauthenticatedError(authorization.empty() ? "there is no API key" : "the API key is wrong");
  };
  StartAll({}, options);
  for (const grpc::Status& status : {Complete(Request("Call me")), Stream(Request("Call me"))}) {
    EXPECT_EQ(status.error_code(), StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(status.error_message(), "there is no API key");
  }
  grpc::ClientContext tokenize_context;
  v1::TokenizeResponse tokens;
  EXPECT_EQ(stub_->Tokenize(&tokenize_context, v1::TokenizeRequest(), &tokens).error_code(),
            StatusCode::UNAUTHENTICATED);
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer secret");
  v1::CompletionResponse response;
  EXPECT_TRUE(stub_->Complete(&context, Request("Call me"), &response).ok());
  EXPECT_EQ(engine_->submitted().back().api_key_id, "key-1");
}

TEST_F(GrpcCompletionTest, TokenizesAndBack) {
  StartAll();
  v1::TokenizeRequest request;
  request.set_prompt("Call me Ishmael. \u20AC");
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Tokenize(&context, request, &tokens).ok());
  const auto expected = service_->tokenizer()->Encode(request.prompt());
  EXPECT_THAT(tokens.tokens(), testing::ElementsAreArray(*expected));
  EXPECT_EQ(tokens.count(), tokens.tokens_size());
  EXPECT_EQ(tokens.max_model_len(), 1024);

  v1::DetokenizeRequest back;
  back.mutable_tokens()->Add(expected->begin() + 1, expected->end());  // without BOS
  v1::DetokenizeResponse text;
  grpc::ClientContext back_context;
  ASSERT_TRUE(stub_->Detokenize(&back_context, back, &text).ok());
  EXPECT_EQ(text.prompt(), request.prompt());

  grpc::ClientContext beyond_context;
  back.add_tokens(1 << 20);
  const grpc::Status beyond = stub_->Detokenize(&beyond_context, back, &text);
  EXPECT_EQ(beyond.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(beyond.error_message(), testing::HasSubstr("is 1048576, but the model's token ids are 0 to"));

  grpc::ClientContext other_context;
  request.set_model("other");
  EXPECT_EQ(stub_->Tokenize(&other_context, request, &tokens).error_code(), StatusCode::NOT_FOUND);
}

// Longer than what is tokenized at once.
TEST_F(GrpcCompletionTest, TokenizesLongTexts) {
  StartAll();
  v1::TokenizeRequest request;
  while (request.prompt().size() < 200'000) request.mutable_prompt()->append("It was the best of times. ");
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Tokenize(&context, request, &tokens).ok());
  EXPECT_THAT(tokens.tokens(), testing::ElementsAreArray(*service_->tokenizer()->Encode(request.prompt())));
}

TEST_F(GrpcCompletionTest, AModelWithoutTokenizerTakesIdsOnly) {
  MakeService({}, /*with_tokenizer=*/false);
  StartServer(ServerOptions());
  server_->Serve(*service_);
  EXPECT_EQ(Reason(Complete(Request("Call me"))), "tokenizer_missing");
  v1::TokenizeRequest request;
  request.set_prompt("Call me");
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  EXPECT_EQ(Reason(stub_->Tokenize(&context, request, &tokens)), "tokenizer_missing");

  v1::CompletionRequest ids;
  ids.add_prompt()->mutable_token_ids()->add_ids(5);
  ids.set_return_token_ids(true);
  v1::CompletionResponse response;
  ASSERT_TRUE(Complete(ids, &response).ok());
  EXPECT_EQ(response.choices(0).token_ids_size(), 16);
  EXPECT_THAT(response.choices(0).prompt_token_ids(), ElementsAre(5));
}

TEST_F(GrpcCompletionTest, ListsTheModel) {
  StartAll();
  v1::ListModelsResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->ListModels(&context, v1::ListModelsRequest(), &response).ok());
  ASSERT_EQ(response.models_size(), 1);
  EXPECT_EQ(response.models(0).id(), kModelName);
  EXPECT_EQ(response.models(0).created(), 1234);
  EXPECT_EQ(response.models(0).max_model_len(), 1024);
}

}  // namespace
}  // namespace optserve
