// What goes wrong, or ends early, and what is bounded.

#include "server/completion/completion_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "engine/util/error_details.h"
#include "engine/util/metrics.h"
#include "engine/util/status.h"
#include "tests/server/completion/completion_client.h"
#include "tests/server/completion/demo_tokenizer.h"
#include "tests/support/fake_engine_client.h"

namespace optserve {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using Pace = FakeEngineClient::Pace;

TEST(CompletionServiceEndsTest, AnUnknownModelIsNotFound) {
  FakeEngineClient engine({});
  const auto service = MakeService(engine);
  const CompletionBatch batch = Complete(*service, {.model = "other", .prompts = {Text("a")}});
  EXPECT_EQ(batch.error.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrorCode(batch.error), "model_not_found");
  EXPECT_EQ(Param(batch.error), "model");
  EXPECT_TRUE(Complete(*service, {.model = "demo", .prompts = {Text("a")}}).error.ok());
  EXPECT_THAT(engine.submitted(), SizeIs(1));
}

TEST(CompletionServiceEndsTest, ABadPromptKeepsTheOthersFromBeingSubmitted) {
  FakeEngineClient engine({});
  const auto service = MakeService(engine);
  const CompletionBatch batch = Complete(*service, {.prompts = {Ids({5}), Ids({4096})}, .prompt_is_list = true});
  EXPECT_EQ(Param(batch.error), "prompt[1][0]");
  EXPECT_THAT(engine.submitted(), IsEmpty());
}

TEST(CompletionServiceEndsTest, ARefusalOfTheEngineIsTheAnswer) {
  FakeEngineClient engine({});
  const auto service = MakeService(engine);
  engine.RefuseWith(WithRetryAfter(ResourceExhausted("full"), 3));
  const CompletionBatch batch = Complete(*service, {.prompts = {Text("a")}});
  EXPECT_EQ(batch.error.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(RetryAfterSeconds(batch.error), 3);
  EXPECT_THAT(batch.events, IsEmpty());
}

TEST(CompletionServiceEndsTest, ARefusalOfOnePromptCancelsThoseBeforeIt) {
  FakeEngineClient engine({.pace = Pace::kByHand, .max_queue = 1});
  const auto service = MakeService(engine);
  const CompletionBatch batch = Complete(*service, {.prompts = {Ids({5}), Ids({6}), Ids({7})}});
  EXPECT_EQ(batch.error.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(engine.num_live(), 0);
  EXPECT_THAT(engine.submitted(), SizeIs(2));
}

TEST(CompletionServiceEndsTest, CancelEndsAllChoicesAndTheCall) {
  FakeEngineClient engine({.pace = Pace::kByHand});
  const auto service = MakeService(engine);
  Client client(*service, {.prompts = {Ids({5}), Ids({6})}, .n = 2, .stream = true});
  engine.Step();
  EXPECT_THAT(client.call().Take().events, SizeIs(4));
  EXPECT_EQ(engine.num_live(), 4);
  client.call().Cancel();
  EXPECT_EQ(engine.num_live(), 0);
  client.call().Cancel();
  EXPECT_THAT(engine.cancellations(), SizeIs(2));
  const CompletionBatch batch = client.call().Take();
  EXPECT_TRUE(batch.done);
  EXPECT_EQ(batch.error.code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(batch.events, IsEmpty());
}

TEST(CompletionServiceEndsTest, ACallThatIsDestroyedIsCancelled) {
  FakeEngineClient engine({.pace = Pace::kByHand});
  const auto service = MakeService(engine);
  Client client(*service, {.prompts = {Ids({5})}});
  engine.Step();
  client.Leave();
  EXPECT_EQ(engine.num_live(), 0);
  engine.Step();  // its last event finds nobody, and nothing happens
}

TEST(CompletionServiceEndsTest, ACallThatHasFinishedCancelsNothing) {
  FakeEngineClient engine({});
  const auto service = MakeService(engine);
  Client client(*service, {.prompts = {Ids({5})}});
  client.Finish();
  client.Leave();
  EXPECT_THAT(engine.cancellations(), IsEmpty());
}

TEST(CompletionServiceEndsTest, ATimeoutFailsTheWholeCall) {
  FakeEngineClient engine({.pace = Pace::kByHand});
  const auto service = MakeService(engine);
  Client client(*service, {.prompts = {Ids({5})}, .n = 2, .stream = true, .timeout_seconds = 0.001});
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  engine.Step();
  const CompletionBatch batch = client.call().Take();
  EXPECT_TRUE(batch.done);
  EXPECT_EQ(batch.error.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(batch.error.message()), HasSubstr("0.001"));
}

TEST(CompletionServiceEndsTest, ALostEngineEndsAStreamBehindWhatItHasSaid) {
  FakeEngineClient engine({.pace = Pace::kByHand});
  const auto service = MakeService(engine);
  Client streamed(*service, {.prompts = {Ids({5})}, .stream = true});
  engine.Step();
  EXPECT_THAT(streamed.call().Take().events, SizeIs(1));
  engine.Step();
  Client unseen(*service, {.prompts = {Ids({5})}, .stream = true});
  engine.Step();
  engine.Die(WithErrorCode(Unavailable("the engine is gone"), "engine_dead"));
  CompletionBatch batch = streamed.call().Take();
  EXPECT_THAT(batch.events, SizeIs(2));  // what came before it
  EXPECT_TRUE(batch.done);
  EXPECT_EQ(ErrorCode(batch.error), "engine_dead");
  // Where nothing was delivered yet, the error is the whole answer.
  batch = unseen.call().Take();
  EXPECT_THAT(batch.events, IsEmpty());
  EXPECT_EQ(ErrorCode(batch.error), "engine_dead");
  EXPECT_EQ(ErrorCode(Complete(*service, {.prompts = {Ids({5})}}).error), "engine_dead");
}

TEST(CompletionServiceEndsTest, LongTextIsTokenizedElsewhere) {
  FakeEngineClient engine({.pace = Pace::kOwnThread});
  const auto service = MakeService(engine, {.inline_text_bytes = 10});
  const std::string text = "a text of more than ten bytes";
  const CompletionBatch batch = Complete(*service, {.prompts = {Text(text)}, .max_tokens = 1, .echo = true});
  EXPECT_TRUE(batch.error.ok()) << batch.error;
  EXPECT_TRUE(batch.events.at(0).text.starts_with(text));
}

TEST(CompletionServiceEndsTest, LongTextsThatWaitAreBounded) {
  FakeEngineClient engine({});
  // Nobody tokenizes, so that the queue stays full.
  const auto service = MakeService(engine, {.tokenizer_threads = 0, .inline_text_bytes = 10, .max_waiting_texts = 2});
  const CompletionRequest request{.prompts = {Text("a text of more than ten bytes")}};
  Client first(*service, request);
  Client second(*service, request);
  Client third(*service, request);
  EXPECT_FALSE(first.call().Take().done);
  EXPECT_EQ(third.call().Take().error.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Complete(*service, {.prompts = {Text("short")}}).error.ok());
}

TEST(CompletionServiceEndsTest, IdsAreAnsweredWithoutATokenizer) {
  FakeEngineClient engine({});
  CompletionService service(engine, std::nullopt, {.served_model_name = "demo"});
  const CompletionBatch batch = Complete(service, {.prompts = {Ids({5})}, .max_tokens = 3, .return_token_ids = true});
  EXPECT_EQ(batch.events.at(0).text, "");
  EXPECT_THAT(batch.events.at(0).token_ids, SizeIs(3));
  EXPECT_EQ(ErrorCode(Complete(service, {.prompts = {Text("a")}}).error), "tokenizer_missing");
}

TEST(CompletionServiceEndsTest, IdsOfCallsAreTheirOwn) {
  FakeEngineClient engine({});
  const auto service = MakeService(engine);
  Client first(*service, {.prompts = {Ids({5})}});
  Client second(*service, {.prompts = {Ids({5})}});
  EXPECT_THAT(first.call().id(), testing::MatchesRegex("cmpl-[0-9a-f]{32}"));
  EXPECT_NE(first.call().id(), second.call().id());
  EXPECT_GT(first.call().created(), 1'600'000'000);
  EXPECT_THAT(first.call().system_fingerprint(), testing::MatchesRegex("fp_[0-9a-f]{12}"));
  EXPECT_EQ(first.call().system_fingerprint(), second.call().system_fingerprint());
}

TEST(CompletionServiceEndsTest, WhatClientsSeeIsMeasured) {
  Metrics metrics("test");
  FakeEngineClient engine({});
  const auto service = MakeService(engine, {.metrics = &metrics});
  Complete(*service, {.prompts = {Ids({5})}, .max_tokens = 4, .n = 2});
  engine.RefuseWith(ResourceExhausted("full"));
  Complete(*service, {.prompts = {Ids({5})}});
  const std::string text = metrics.Render({}, true);
  EXPECT_THAT(text, HasSubstr("optserve_time_to_first_token_seconds_count 2\n"));
  EXPECT_THAT(text, HasSubstr("optserve_inter_token_latency_seconds_count 6\n"));
  EXPECT_THAT(text, HasSubstr("optserve_request_queue_seconds_count 1\n"));
  EXPECT_THAT(text, HasSubstr("optserve_request_duration_seconds_count 2\n"));
  EXPECT_THAT(text, HasSubstr("optserve_requests_total{finish_reason=\"length\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("optserve_requests_total{finish_reason=\"error\"} 1\n"));
}

// For ThreadSanitizer: clients that come, read, leave at any moment, and a service that ends in the middle.
TEST(CompletionServiceEndsTest, ManyClientsAtOnce) {
  FakeEngineClient engine({.pace = Pace::kOwnThread, .prefill_chunk = 4});
  const auto service = MakeService(engine, {.tokenizer_threads = 2, .inline_text_bytes = 8});
  std::vector<std::thread> clients;
  for (int thread = 0; thread < 6; ++thread) {
    clients.emplace_back([&, thread] {
      std::mt19937 random(thread);
      for (int round = 0; round < 30; ++round) {
        Client client(*service, {.prompts = {Text("Call me Ishmael"), Text("a")},
                                 .max_tokens = 20,
                                 .n = 2,
                                 .stop = {"e"},
                                 .logprobs = 1,
                                 .echo = true,
                                 .stream = random() % 2 == 0});
        switch (random() % 3) {
          case 0:
            break;
          case 1:
            client.Next();
            if (random() % 2 == 0) client.call().Cancel();
            break;
          default: {
            const CompletionBatch batch = client.Finish();
            EXPECT_TRUE(batch.error.ok()) << batch.error;
          }
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  while (engine.num_live() > 0) std::this_thread::yield();
}

}  // namespace
}  // namespace optserve
