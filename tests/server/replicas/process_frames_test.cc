#include "engine/process_frames.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "engine/util/error_details.h"
#include "engine/util/status.h"
#include "tests/support/expect_same.h"

namespace optserve {
namespace {

// Through the bytes that cross the border.
template <typename Proto, typename T>
T RoundTrip(const T& value) {
  Proto sent;
  ToProto(value, &sent);
  Proto received;
  EXPECT_TRUE(received.ParseFromString(sent.SerializeAsString()));
  return FromProto(received);
}

// Every field differs from its default and from the others, so that one that is forgotten or mixed up shows.
TEST(ProcessFramesTest, ARequestCrossesWhole) {
  GenerateRequest sent = {
      .id = 0xfedcba9876543210,
      .prompt = {2, 100, 50271},
      .max_tokens = 17,
      .sampling = {.temperature = 0.1f,
                   .top_k = 2,
                   .top_p = 0.3f,
                   .min_p = 0.4f,
                   .typical_p = 0.5f,
                   .repetition_penalty = 1.6f,
                   .presence_penalty = -0.7f,
                   .frequency_penalty = 0.8f,
                   .seed = 0x123456789abcdef0,
                   .vocab_limit = 11,
                   .num_logprobs = 12,
                   .min_tokens = 13,
                   .no_repeat_ngram_size = 14},
      .num_choices = 3,
      .first_choice = 4,
      .stop_token_ids = {5, 6},
      .num_prompt_logprobs = 0,
      .generated = {21, 22},
      .prompt_scores_sent = 23,
      .admitted = true,
      .api_key_id = "key",
      .user = "not \xff UTF-8",
      .cache_salt = "salt",
      .priority = -24,
      .deadline_ns = std::numeric_limits<int64_t>::max(),
      .batch = true,
      .share_weight = 25,
  };
  sent.sampling.logit_bias = {{7, -100.0f}, {9, 0.5f}};
  const GenerateRequest got = RoundTrip<internal::GenerateRequest>(sent);
  EXPECT_EQ(got.id, sent.id);
  EXPECT_EQ(got.prompt, sent.prompt);
  EXPECT_EQ(got.max_tokens, sent.max_tokens);
  EXPECT_EQ(got.sampling, sent.sampling);
  EXPECT_EQ(got.num_choices, sent.num_choices);
  EXPECT_EQ(got.first_choice, sent.first_choice);
  EXPECT_EQ(got.stop_token_ids, sent.stop_token_ids);
  EXPECT_EQ(got.num_prompt_logprobs, sent.num_prompt_logprobs);
  EXPECT_EQ(got.generated, sent.generated);
  EXPECT_EQ(got.prompt_scores_sent, sent.prompt_scores_sent);
  EXPECT_EQ(got.admitted, sent.admitted);
  EXPECT_EQ(got.api_key_id, sent.api_key_id);
  EXPECT_EQ(got.user, sent.user);
  EXPECT_EQ(got.cache_salt, sent.cache_salt);
  EXPECT_EQ(got.priority, sent.priority);
  EXPECT_EQ(got.deadline_ns, sent.deadline_ns);
  EXPECT_EQ(got.batch, sent.batch);
  EXPECT_EQ(got.share_weight, sent.share_weight);
}

TEST(ProcessFramesTest, AnEventCrossesWhole) {
  const float infinity = std::numeric_limits<float>::infinity();
  const TokenEvent sent = {
      .request = 1,
      .choice = 2,
      .token = TokenScore{.id = 0, .logprob = -0.5f, .top = {{.id = 0, .logprob = -0.5f}, {4, -infinity}}},
      .finish = FinishReason::kLength,
      .prompt_scores = {{.id = 5, .logprob = -1.0f}, {.id = 6, .logprob = -2.0f, .top = {{7, -3.0f}}}},
      .prompt_scores_begin = 8,
      .cached_tokens = 9,
      .queue_ns = int64_t{1} << 40,
      .engine_ns = int64_t{1} << 41,
  };
  const TokenEvent got = RoundTrip<internal::TokenEvent>(sent);
  EXPECT_EQ(got.request, sent.request);
  EXPECT_EQ(got.choice, sent.choice);
  ASSERT_TRUE(got.token.has_value());
  ExpectSame(*got.token, *sent.token);
  EXPECT_EQ(got.finish, sent.finish);
  ASSERT_EQ(got.prompt_scores.size(), 2u);
  ExpectSame(got.prompt_scores[0], sent.prompt_scores[0]);
  ExpectSame(got.prompt_scores[1], sent.prompt_scores[1]);
  EXPECT_EQ(got.prompt_scores_begin, sent.prompt_scores_begin);
  EXPECT_EQ(got.cached_tokens, sent.cached_tokens);
  EXPECT_EQ(got.queue_ns, sent.queue_ns);
  EXPECT_EQ(got.engine_ns, sent.engine_ns);
  EXPECT_TRUE(got.error.ok());
  EXPECT_FALSE(RoundTrip<internal::TokenEvent>(TokenEvent{}).token.has_value());
}

TEST(ProcessFramesTest, AnErrorKeepsItsDetails) {
  const absl::Status sent =
      WithRetryAfter(WithParam(WithErrorCode(ResourceExhausted("full \xff"), "rate_limit_exceeded"), "prompt[3]"), 7);
  const TokenEvent got = RoundTrip<internal::TokenEvent>(TokenEvent{.finish = FinishReason::kError, .error = sent});
  EXPECT_EQ(got.error, sent);
  EXPECT_EQ(ErrorCode(got.error), "rate_limit_exceeded");
  EXPECT_EQ(Param(got.error), "prompt[3]");
  EXPECT_EQ(RetryAfterSeconds(got.error), 7);
}

TEST(ProcessFramesTest, TheModelCrossesWhole) {
  const ModelInfo sent = {.vocab_size = 1,
                          .max_model_len = 2,
                          .eos_token_ids = {3, 4},
                          .bos_token_id = 5,
                          .max_num_seqs = 6,
                          .kv_tokens = int64_t{7} << 40,
                          .weight_bytes = int64_t{8} << 40,
                          .num_parameters = int64_t{9} << 40};
  const ModelInfo got = RoundTrip<internal::ModelInfo>(sent);
  EXPECT_EQ(got.vocab_size, sent.vocab_size);
  EXPECT_EQ(got.max_model_len, sent.max_model_len);
  EXPECT_EQ(got.eos_token_ids, sent.eos_token_ids);
  EXPECT_EQ(got.bos_token_id, sent.bos_token_id);
  EXPECT_EQ(got.max_num_seqs, sent.max_num_seqs);
  EXPECT_EQ(got.kv_tokens, sent.kv_tokens);
  EXPECT_EQ(got.weight_bytes, sent.weight_bytes);
  EXPECT_EQ(got.num_parameters, sent.num_parameters);
}

TEST(ProcessFramesTest, CountersCrossWhole) {
  const EngineStats sent = {
      .running = 1,
      .waiting = 2,
      .blocks_total = 3,
      .blocks_used = 4,
      .steps = 5,
      .prompt_tokens = 6,
      .generated_tokens = 7,
      .preemptions = 8,
      .prefix_cache_queries = 9,
      .prefix_cache_hits = 10,
      .nonfinite_rows = 11,
      .step_seconds = 0.12,
      .last_step_seconds = 0.13,
      .last_step_tokens = 14,
      .step_account = {.steps = 15, .times = {{16, 17, 18, 19, 20, 21, 22, 23}}, .demand = {24, 25, 26, 27}},
      .request_account = {.steps = 28, .times = {{29}}, .demand = {30}},
      .request_seconds = 0.31};
  const EngineStats got = RoundTrip<internal::EngineStats>(sent);
  EXPECT_EQ(got.running, sent.running);
  EXPECT_EQ(got.waiting, sent.waiting);
  EXPECT_EQ(got.blocks_total, sent.blocks_total);
  EXPECT_EQ(got.blocks_used, sent.blocks_used);
  EXPECT_EQ(got.steps, sent.steps);
  EXPECT_EQ(got.prompt_tokens, sent.prompt_tokens);
  EXPECT_EQ(got.generated_tokens, sent.generated_tokens);
  EXPECT_EQ(got.preemptions, sent.preemptions);
  EXPECT_EQ(got.prefix_cache_queries, sent.prefix_cache_queries);
  EXPECT_EQ(got.prefix_cache_hits, sent.prefix_cache_hits);
  EXPECT_EQ(got.nonfinite_rows, sent.nonfinite_rows);
  EXPECT_EQ(got.step_seconds, sent.step_seconds);
  EXPECT_EQ(got.last_step_seconds, sent.last_step_seconds);
  EXPECT_EQ(got.last_step_tokens, sent.last_step_tokens);
  EXPECT_EQ(got.request_seconds, sent.request_seconds);
  for (const auto account : {&EngineStats::step_account, &EngineStats::request_account}) {
    EXPECT_EQ((got.*account).steps, (sent.*account).steps);
    EXPECT_EQ((got.*account).times.ns, (sent.*account).times.ns);
    EXPECT_EQ((got.*account).demand.weight_bytes, (sent.*account).demand.weight_bytes);
    EXPECT_EQ((got.*account).demand.kv_bytes, (sent.*account).demand.kv_bytes);
    EXPECT_EQ((got.*account).demand.weight_flops, (sent.*account).demand.weight_flops);
    EXPECT_EQ((got.*account).demand.attention_flops, (sent.*account).demand.attention_flops);
  }
}

TEST(ProcessFramesTest, RecordsOfStepsCrossWhole) {
  const StepRecord sent = {.step = 1,
                           .begin_ns = int64_t{1} << 40,
                           .num_tokens = 2,
                           .num_sequences = 3,
                           .times = {{4, 5, 6, 7, 8, 9, 10, 11}},
                           .demand = {12, 13, 14, 15}};
  const StepRecord got = RoundTrip<internal::StepRecord>(sent);
  EXPECT_EQ(got.step, sent.step);
  EXPECT_EQ(got.begin_ns, sent.begin_ns);
  EXPECT_EQ(got.num_tokens, sent.num_tokens);
  EXPECT_EQ(got.num_sequences, sent.num_sequences);
  EXPECT_EQ(got.times.ns, sent.times.ns);
  EXPECT_EQ(got.demand.weight_bytes, sent.demand.weight_bytes);
  EXPECT_EQ(got.demand.kv_bytes, sent.demand.kv_bytes);
  EXPECT_EQ(got.demand.weight_flops, sent.demand.weight_flops);
  EXPECT_EQ(got.demand.attention_flops, sent.demand.attention_flops);
}

// An engine that is broken may send anything; the front end must not read beyond what came.
TEST(ProcessFramesTest, ListsOfUnequalLengthAreCutToTheShorter) {
  internal::TokenEvent event;
  event.mutable_token()->add_top_ids(1);
  event.mutable_token()->add_top_ids(2);
  event.mutable_token()->add_top_logprobs(-0.5f);
  EXPECT_EQ(FromProto(event).token->top.size(), 1u);

  internal::GenerateRequest request;
  request.mutable_sampling()->add_logit_bias_ids(5);
  EXPECT_EQ(FromProto(request).sampling.logit_bias.size(), 0u);
}

}  // namespace
}  // namespace optserve
