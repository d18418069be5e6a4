#include "server/completion/completion_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "engine/util/error_details.h"
#include "tests/server/completion/completion_client.h"
#include "tests/server/completion/demo_tokenizer.h"
#include "tests/support/fake_engine_client.h"

namespace optserve {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;
using Pace = FakeEngineClient::Pace;
using Cancellation = FakeEngineClient::Cancellation;

TEST(CompletionServiceTest, OneRequestOfTheEngineForEachPromptWithAllThatItNeeds) {
  FakeEngineClient engine({.pace = Pace::kByHand});
  const auto service = MakeService(engine);
  CompletionRequest request{.prompts = {Ids({5, 6}), Text("a")},
                            .max_tokens = 9,
                            .temperature = 0.5f,
                            .top_p = 0.6f,
                            .top_k = 7,
                            .min_p = 0.1f,
                            .typical_p = 0.9f,
                            .n = 2,
                            .best_of = 3,
                            .stop_token_ids = {8},
                            .min_tokens = 4,
                            .logprobs = 5,
                            .presence_penalty = 0.2f,
                            .frequency_penalty = 0.3f,
                            .repetition_penalty = 1.4f,
                            .no_repeat_ngram_size = 6,
                            .logit_bias = {{9, -1.0f}},
                            .seed = -3,
                            .user = "u",
                            .priority = 2,
                            .batch = true,
                            .cache_salt = "s",
                            .timeout_seconds = 100.0,
                            .api_key_id = "k"};
  Client client(*service, request);
  const std::vector<GenerateRequest> submitted = engine.submitted();
  ASSERT_THAT(submitted, SizeIs(2));
  EXPECT_NE(submitted[0].id, submitted[1].id);
  EXPECT_THAT(submitted[0].prompt, ElementsAre(5, 6));
  EXPECT_THAT(submitted[1].prompt, ElementsAre(2, IdOf("a")));
  for (const GenerateRequest& generate : submitted) {
    EXPECT_EQ(generate.max_tokens, 9);
    EXPECT_EQ(generate.num_choices, 3);
    EXPECT_EQ(generate.first_choice, 0);
    EXPECT_THAT(generate.stop_token_ids, ElementsAre(8, 2));
    EXPECT_EQ(generate.num_prompt_logprobs, -1);
    EXPECT_EQ(generate.api_key_id, "k");
    EXPECT_EQ(generate.user, "u");
    EXPECT_EQ(generate.cache_salt, "s");
    EXPECT_EQ(generate.priority, 2);
    EXPECT_TRUE(generate.batch);
    EXPECT_NE(generate.deadline_ns, 0);
    const SamplingParams sampling{.temperature = 0.5f,
                                  .top_k = 7,
                                  .top_p = 0.6f,
                                  .min_p = 0.1f,
                                  .typical_p = 0.9f,
                                  .repetition_penalty = 1.4f,
                                  .presence_penalty = 0.2f,
                                  .frequency_penalty = 0.3f,
                                  .logit_bias = {{9, -1.0f}},
                                  .seed = static_cast<uint64_t>(-3),
                                  .num_logprobs = 5,
                                  .min_tokens = 4,
                                  .no_repeat_ngram_size = 6};
    EXPECT_EQ(generate.sampling, sampling);
  }
}

TEST(CompletionServiceTest, IdsWithoutATokenAreNeverSampled) {
  ModelInfo model = FakeEngineClient::DefaultModel();
  model.vocab_size = 4104;
  FakeEngineClient engine({.model = model});
  const auto service = MakeService(engine);
  Complete(*service, {.prompts = {Ids({4100})}});
  EXPECT_EQ(engine.submitted().at(0).sampling.vocab_limit, 4096);
}

TEST(CompletionServiceTest, IgnoreEosLeavesOnlyTheClientsStopTokens) {
  FakeEngineClient engine({});
  const auto service = MakeService(engine);
  Complete(*service, {.prompts = {Ids({5})}, .stop_token_ids = {8}, .ignore_eos = true});
  EXPECT_THAT(engine.submitted().at(0).stop_token_ids, ElementsAre(8));
}

TEST(CompletionServiceTest, PromptScoresAreAskedForAsFarAsTheyAreShown) {
  FakeEngineClient engine({});
  const auto service = MakeService(engine);
  const auto asked = [&](CompletionRequest request) {
    request.prompts = {Ids({5, 6})};
    EXPECT_TRUE(Complete(*service, request).error.ok());
    return engine.submitted().back().num_prompt_logprobs;
  };
  EXPECT_EQ(asked({}), -1);
  EXPECT_EQ(asked({.logprobs = 3}), -1);
  EXPECT_EQ(asked({.echo = true}), -1);
  EXPECT_EQ(asked({.logprobs = 3, .echo = true}), 3);
  EXPECT_EQ(asked({.prompt_logprobs = 0}), 0);
  EXPECT_EQ(asked({.logprobs = 3, .echo = true, .prompt_logprobs = 7}), 7);
}

TEST(CompletionServiceTest, AGivenSeedIsEveryPromptsAndAMissingOneIsDrawnForEach) {
  FakeEngineClient engine({});
  const auto service = MakeService(engine);
  const std::vector<Prompt> prompts(3, Text("same"));
  const CompletionBatch seeded = Complete(*service, {.prompts = prompts, .seed = 0});
  const CompletionBatch alone = Complete(*service, {.prompts = {prompts[0]}, .seed = 0});
  for (const CompletionEvent& event : seeded.events) EXPECT_EQ(event.text, alone.events.at(0).text);
  const CompletionBatch drawn = Complete(*service, {.prompts = prompts});
  std::set<std::string> texts;
  for (const CompletionEvent& event : drawn.events) texts.insert(event.text);
  EXPECT_THAT(texts, SizeIs(3));
  EXPECT_NE(Complete(*service, {.prompts = {prompts[0]}}).events.at(0).text,
            Complete(*service, {.prompts = {prompts[0]}}).events.at(0).text);
}

TEST(CompletionServiceTest, ChoicesAreNumberedByPromptAndChoice) {
  FakeEngineClient engine({});
  const auto service = MakeService(engine);
  const CompletionBatch batch = Complete(*service, {.prompts = {Text("a"), Text("b")}, .n = 3, .seed = 1});
  ASSERT_THAT(batch.events, SizeIs(6));
  std::set<std::string> texts;
  for (int32_t i = 0; i < 6; ++i) {
    EXPECT_EQ(batch.events[i].index, i);
    texts.insert(batch.events[i].text);
  }
  EXPECT_THAT(texts, SizeIs(6));
  const CompletionBatch second = Complete(*service, {.prompts = {Text("b")}, .n = 3, .seed = 1});
  for (int32_t j = 0; j < 3; ++j) EXPECT_EQ(second.events.at(j).text, batch.events[3 + j].text);
}

TEST(CompletionServiceTest, AStreamAddsUpToTheAnswer) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    FakeEngineClient engine({.pace = round % 2 == 0 ? Pace::kOwnThread : Pace::kAtOnce,
                             .prefill_chunk = 1 + static_cast<int32_t>(random() % 8)});
    const auto service = MakeService(engine);
    CompletionRequest request{
        .max_tokens = 1 + static_cast<int32_t>(random() % 30),
        .n = 1 + static_cast<int32_t>(random() % 3),
        .include_stop_str_in_output = random() % 2 == 0,
        .logprobs = random() % 2 == 0 ? std::optional<int32_t>(random() % 4) : std::nullopt,
        .echo = random() % 2 == 0,
        .prompt_logprobs = random() % 2 == 0 ? std::optional<int32_t>(random() % 4) : std::nullopt,
        .seed = round,
        .return_token_ids = random() % 2 == 0,
        .return_tokens_as_token_ids = random() % 2 == 0};
    for (size_t i = 1 + random() % 3; i > 0; --i) {
      request.prompts.push_back(random() % 2 == 0 ? Text("Call me \u00e9") : Ids({5, 6, 7, 300, 301, 302}));
    }
    for (const char* stop : {"e", " the", "in", "\uFFFD"}) {
      if (random() % 4 == 0) request.stop.emplace_back(stop);
    }
    const CompletionBatch whole = Complete(*service, request);
    request.stream = true;
    const CompletionBatch stream = Complete(*service, request);
    ASSERT_TRUE(whole.error.ok() && stream.error.ok()) << whole.error << stream.error;
    ASSERT_EQ(Print(PutTogether(stream.events)), Print(whole.events));
    ASSERT_EQ(stream.events.back().usage.completion_tokens, whole.events.back().usage.completion_tokens);
    ASSERT_EQ(static_cast<size_t>(stream.events.back().usage.completion_tokens), stream.events.size());
  }
}

TEST(CompletionServiceTest, PromptScoresThatComeInChunksAreWaitedFor) {
  FakeEngineClient engine({.pace = Pace::kByHand, .prefill_chunk = 2});
  const auto service = MakeService(engine);
  Client client(*service, {.prompts = {Ids({5, 6, 7, 8, 9})}, .max_tokens = 1, .n = 2, .logprobs = 0, .echo = true});
  engine.Step();
  EXPECT_THAT(client.call().Take().events, IsEmpty());
  engine.Step();
  EXPECT_THAT(client.call().Take().events, IsEmpty());
  engine.Step();
  const CompletionBatch batch = client.call().Take();
  EXPECT_TRUE(batch.done);
  ASSERT_THAT(batch.events, SizeIs(2));
  for (const CompletionEvent& event : batch.events) EXPECT_THAT(event.logprobs, SizeIs(6));
}

TEST(CompletionServiceTest, ScoringOnlyAnswersThePrompt) {
  FakeEngineClient engine({});
  const auto service = MakeService(engine);
  const CompletionBatch batch =
      Complete(*service, {.prompts = {Text("abc")}, .max_tokens = 0, .logprobs = 1, .echo = true, .stream = true});
  ASSERT_THAT(batch.events, SizeIs(1));
  EXPECT_EQ(batch.events[0].text, "abc");
  EXPECT_EQ(batch.events[0].finish, FinishReason::kLength);
  EXPECT_EQ(batch.events[0].usage.completion_tokens, 0);
}

TEST(CompletionServiceTest, AStopStringCancelsItsChoiceAndNoOther) {
  FakeEngineClient engine(
      {.pace = Pace::kByHand,
       .next_token = FakeEngineClient::Scripted({IdsOf({"a", "b", "c", "d", "e"}), IdsOf({"x", "x", "x", "x", "x"})})});
  const auto service = MakeService(engine);
  Client client(*service, {.prompts = {Ids({5})}, .max_tokens = 5, .n = 2, .stop = {"bc"}, .stream = true});
  for (int i = 0; i < 3; ++i) engine.Step();
  CompletionBatch batch = client.call().Take();
  EXPECT_FALSE(batch.done);
  const RequestId id = engine.submitted().at(0).id;
  EXPECT_THAT(engine.cancellations(), ElementsAre(Cancellation{.id = id, .choice = 0}));
  EXPECT_EQ(engine.num_live(), 1);
  for (int i = 0; i < 2; ++i) engine.Step();
  CompletionBatch rest = client.call().Take();
  EXPECT_TRUE(rest.done);
  EXPECT_TRUE(rest.error.ok());
  std::ranges::move(rest.events, std::back_inserter(batch.events));
  EXPECT_EQ(batch.events.back().usage.completion_tokens, 8);
  const std::vector<CompletionEvent> choices = PutTogether(batch.events);
  EXPECT_EQ(choices[0].text, "a");
  EXPECT_EQ(choices[0].finish, FinishReason::kStop);
  EXPECT_EQ(choices[1].text, "xxxxx");
  EXPECT_EQ(choices[1].finish, FinishReason::kLength);
  EXPECT_THAT(engine.cancellations(), SizeIs(1));
}

TEST(CompletionServiceTest, TokensBehindAStopStringAreNotUsedHoweverLateItIsSeen) {
  // At once: the engine has made all five before anybody looks.
  FakeEngineClient engine({.next_token = FakeEngineClient::Scripted({IdsOf({"a", "b", "c", "d", "e"})})});
  const auto service = MakeService(engine);
  const CompletionBatch batch =
      Complete(*service, {.prompts = {Ids({5})}, .max_tokens = 5, .stop = {"bc"}, .return_token_ids = true});
  EXPECT_EQ(batch.events.at(0).text, "a");
  EXPECT_EQ(batch.events.at(0).token_ids, IdsOf({"a", "b", "c"}));
  EXPECT_EQ(batch.events.at(0).usage.completion_tokens, 3);
}

TEST(CompletionServiceTest, BestOfReturnsTheLikeliestInOrder) {
  FakeEngineClient engine({});
  const auto service = MakeService(engine);
  const CompletionRequest request{
      .prompts = {Text("a"), Text("b")}, .max_tokens = 3, .n = 6, .logprobs = 0, .seed = 11};
  const std::vector<CompletionEvent> all = Complete(*service, request).events;
  CompletionRequest best_request = request;
  best_request.n = 2;
  best_request.best_of = 6;
  const std::vector<CompletionEvent> best = Complete(*service, best_request).events;
  ASSERT_THAT(best, SizeIs(4));
  for (int32_t prompt = 0; prompt < 2; ++prompt) {
    std::vector<std::pair<float, std::string>> ranked;
    for (int32_t j = 0; j < 6; ++j) {
      const CompletionEvent& choice = all[prompt * 6 + j];
      float sum = 0;
      for (const LogprobEntry& entry : choice.logprobs) sum += *entry.token.logprob;
      ranked.emplace_back(-sum, choice.text);
    }
    std::ranges::sort(ranked);
    for (int32_t j = 0; j < 2; ++j) {
      EXPECT_EQ(best[prompt * 2 + j].text, ranked[j].second);
      EXPECT_EQ(best[prompt * 2 + j].index, prompt * 2 + j);
    }
  }
  EXPECT_EQ(best[0].usage.completion_tokens, 2 * 6 * 3);  // all that were made
}

TEST(CompletionServiceTest, UsageCountsEachPromptOnce) {
  FakeEngineClient engine({});
  const auto service = MakeService(engine);
  const CompletionBatch batch = Complete(*service, {.prompts = {Ids({5, 6, 7}), Ids({8})}, .max_tokens = 2, .n = 3});
  EXPECT_EQ(batch.events.at(0).usage.prompt_tokens, 4);
  EXPECT_EQ(batch.events.at(0).usage.completion_tokens, 12);
}

}  // namespace
}  // namespace optserve
