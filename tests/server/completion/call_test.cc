// What the engine may send and the fake one never does: events in odd orders, said twice, or behind the end.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/util/status.h"
#include "server/completion/completion_service.h"
#include "tests/server/completion/demo_tokenizer.h"
#include "tests/support/fake_engine_client.h"

namespace optserve {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

// An engine that does nothing but keep the sink, so that the test can be the engine.
class HandEngine : public FakeEngineClient {
 public:
  HandEngine() : FakeEngineClient({.pace = Pace::kByHand}) {}

  absl::Status Submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) override {
    id_ = request.id;
    sink_ = std::move(sink);
    return absl::OkStatus();
  }

  // Sends `events` as those of the one request.
  void Send(std::vector<TokenEvent> events) {
    for (TokenEvent& event : events) event.request = id_;
    sink_->OnEvents(std::move(events));
  }

 private:
  RequestId id_ = 0;
  std::shared_ptr<TokenSink> sink_;
};

TokenEvent Token(int32_t choice, int32_t id, FinishReason finish = FinishReason::kNone) {
  return {.choice = choice, .token = FakeEngineClient::Score(id, 0, 0), .finish = finish};
}

TokenEvent Scores(int32_t begin, const std::vector<int32_t>& ids) {
  TokenEvent event{.prompt_scores_begin = begin};
  for (const int32_t id : ids) event.prompt_scores.push_back(FakeEngineClient::Score(id, 1, 0));
  return event;
}

class CallTest : public testing::Test {
 protected:
  void Start(CompletionRequest request) {
    request.prompts = {Prompt(std::vector<int32_t>{5, 6, 7, 8})};
    call_ = service_.Start(std::move(request), [this] { ++num_ready_; });
  }

  HandEngine engine_;
  CompletionService service_{engine_, Tokenizer::Load(DemoModelPath()).value(), {}};
  int num_ready_ = 0;
  std::shared_ptr<CompletionCall> call_;
};

TEST_F(CallTest, AnAnswerThatIsAheadOfThePromptsScoresWaitsForThem) {
  Start({.n = 2, .logprobs = 0, .echo = true, .stream = true});
  engine_.Send({Token(1, 10)});
  engine_.Send({Scores(1, {6, 7}), Token(1, 11, FinishReason::kLength)});
  EXPECT_THAT(call_->Take().events, IsEmpty());
  engine_.Send({Scores(3, {8})});
  const CompletionBatch batch = call_->Take();
  ASSERT_THAT(batch.events, SizeIs(2));
  EXPECT_THAT(batch.events[0].logprobs, SizeIs(5));
  EXPECT_THAT(batch.events[1].logprobs, SizeIs(1));
  EXPECT_EQ(batch.events[1].finish, FinishReason::kLength);
  EXPECT_FALSE(batch.done);
}

// An engine that took over from a lost one may begin before the place where that one stopped.
TEST_F(CallTest, ScoresThatAreSaidTwiceCountOnce) {
  Start({.logprobs = 0, .echo = true});
  engine_.Send({Scores(1, {6, 7})});
  engine_.Send({Scores(1, {6, 7, 8})});
  engine_.Send({Scores(2, {7})});
  engine_.Send({Token(0, 10, FinishReason::kLength)});
  const CompletionBatch batch = call_->Take();
  ASSERT_TRUE(batch.done && batch.error.ok()) << batch.error;
  ASSERT_THAT(batch.events.at(0).logprobs, SizeIs(5));
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(batch.events[0].logprobs[i].token.logprob,
              FakeEngineClient::Score(5 + static_cast<int32_t>(i), 1, 0).logprob);
  }
}

TEST_F(CallTest, ScoresThatAreMissingFailTheCall) {
  Start({.logprobs = 0, .echo = true});
  engine_.Send({Scores(1, {6}), Scores(3, {8})});
  EXPECT_EQ(call_->Take().error.code(), absl::StatusCode::kInternal);
}

TEST_F(CallTest, AnAnswerThatTheEngineCancelsByItselfFailsTheCall) {
  Start({.n = 2, .stream = true});
  engine_.Send({Token(0, 10), {.choice = 1, .finish = FinishReason::kCancelled}});
  const CompletionBatch batch = call_->Take();
  EXPECT_TRUE(batch.done);
  EXPECT_EQ(batch.error.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(engine_.cancellations(), SizeIs(1));  // answer 0 goes, too
}

TEST_F(CallTest, OneAnswersErrorIsTheWholeCalls) {
  Start({.n = 2});
  engine_.Send({Token(0, 10, FinishReason::kLength)});
  engine_.Send({{.choice = 1, .finish = FinishReason::kError, .error = Internal("a NaN")}});
  const CompletionBatch batch = call_->Take();
  EXPECT_TRUE(batch.done);
  EXPECT_EQ(batch.error, Internal("a NaN"));
}

TEST_F(CallTest, WhatComesBehindTheEndWakesNobody) {
  Start({});
  engine_.Send({Token(0, 10)});
  EXPECT_EQ(num_ready_, 1);
  call_->Cancel();
  engine_.Send({{.finish = FinishReason::kCancelled}});
  EXPECT_EQ(num_ready_, 1);
  EXPECT_EQ(call_->Take().error.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(call_->Take().done);
}

TEST_F(CallTest, AnAnswerWithoutTokensIsNoToken) {
  Start({.max_tokens = 0, .echo = true, .stream = true});
  engine_.Send({{.finish = FinishReason::kLength}});
  const CompletionBatch batch = call_->Take();
  ASSERT_THAT(batch.events, SizeIs(1));
  EXPECT_EQ(batch.events[0].usage.completion_tokens, 0);
  EXPECT_TRUE(batch.done);
}

}  // namespace
}  // namespace optserve
