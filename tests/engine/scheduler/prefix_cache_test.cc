#include <gtest/gtest.h>

#include "tests/engine/scheduler/harness.h"

// What is computed once need not be computed again, and nobody can tell by the answer.

namespace optserve {
namespace {

std::vector<int32_t> Concat(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(PrefixCacheTest, APromptThatBeginsAlikeStartsBehindTheSharedBlocks) {
  SchedulerHarness harness({.block_size = 4});
  const std::vector<int32_t> shared = MakePrompt(20, 1);
  harness.Add({.id = 1, .prompt = Concat(shared, {5, 6}), .max_tokens = 3});
  harness.RunAll();
  EXPECT_EQ(harness.answer(1).cached_tokens, 0);
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 0);
  EXPECT_EQ(harness.scheduler().blocks().num_cached(), 6) << "the blocks that were full, answer included";
  harness.Add({.id = 2, .prompt = Concat(shared, {9, 8, 7}), .max_tokens = 3});
  const StepPlan& plan = harness.Step();
  EXPECT_EQ(plan.slices[0].num_cached, 20);
  EXPECT_EQ(plan.slices[0].num_tokens, 3);
  harness.RunAll();
  EXPECT_EQ(harness.answer(2).cached_tokens, 20);
  EXPECT_EQ(harness.scheduler().stats().prefix_cache_queries, 22 + 23);
  EXPECT_EQ(harness.scheduler().stats().prefix_cache_hits, 20);
  harness.ExpectAnswersAreRight();
}

TEST(PrefixCacheTest, TheSamePromptAgainComputesItsLastBlock) {
  for (const int32_t prompt_tokens : {1, 4, 5, 8, 9}) {
    SchedulerHarness harness({.block_size = 4});
    harness.Add({.id = 1, .prompt = MakePrompt(prompt_tokens, 1), .max_tokens = 6});
    harness.RunAll();
    harness.Add({.id = 2, .prompt = MakePrompt(prompt_tokens, 1), .max_tokens = 6});
    harness.RunAll();
    EXPECT_EQ(harness.answer(2).cached_tokens, (prompt_tokens - 1) / 4 * 4);
    harness.ExpectAnswersAreRight();
  }
}

TEST(PrefixCacheTest, AConversationReusesItsAnswers) {
  SchedulerHarness harness({.block_size = 4});
  harness.Add({.id = 1, .prompt = MakePrompt(10, 1), .max_tokens = 11});
  harness.RunAll();
  std::vector<int32_t> next = MakePrompt(10, 1);
  for (const TokenScore& token : harness.answer(1).tokens) next.push_back(token.id);
  next.push_back(7);
  harness.Add({.id = 2, .prompt = next, .max_tokens = 3});
  harness.RunAll();
  EXPECT_EQ(harness.answer(2).cached_tokens, 20) << "the last token of an answer is not in the cache";
  harness.ExpectAnswersAreRight();
}

TEST(PrefixCacheTest, KeysAndSaltsDoNotShare) {
  SchedulerHarness harness({.block_size = 4});
  harness.Add({.id = 1, .prompt = MakePrompt(20, 1), .max_tokens = 1, .api_key_id = "a", .cache_salt = "s"});
  harness.RunAll();
  harness.Add({.id = 2, .prompt = MakePrompt(20, 1), .max_tokens = 1, .api_key_id = "b", .cache_salt = "s"});
  harness.Add({.id = 3, .prompt = MakePrompt(20, 1), .max_tokens = 1, .api_key_id = "a", .cache_salt = "t"});
  harness.Add({.id = 4, .prompt = MakePrompt(20, 1), .max_tokens = 1, .api_key_id = "a", .cache_salt = "s"});
  harness.RunAll();
  EXPECT_EQ(harness.answer(2).cached_tokens, 0);
  EXPECT_EQ(harness.answer(3).cached_tokens, 0);
  EXPECT_EQ(harness.answer(4).cached_tokens, 16);
  harness.ExpectAnswersAreRight();
}

TEST(PrefixCacheTest, SharedCacheCrossesKeysButNotSalts) {
  SchedulerHarness harness({.block_size = 4}, [](SchedulerOptions& options) { options.share_prefix_cache = true; });
  harness.Add({.id = 1, .prompt = MakePrompt(20, 1), .max_tokens = 1, .api_key_id = "a"});
  harness.RunAll();
  harness.Add({.id = 2, .prompt = MakePrompt(20, 1), .max_tokens = 1, .api_key_id = "b"});
  harness.Add({.id = 3, .prompt = MakePrompt(20, 1), .max_tokens = 1, .api_key_id = "b", .cache_salt = "s"});
  harness.RunAll();
  EXPECT_EQ(harness.answer(2).cached_tokens, 16);
  EXPECT_EQ(harness.answer(3).cached_tokens, 0);
  harness.ExpectAnswersAreRight();
}

TEST(PrefixCacheTest, SwitchedOffNothingIsCached) {
  SchedulerHarness harness({.block_size = 4}, [](SchedulerOptions& options) { options.prefix_cache = false; });
  for (RequestId id = 1; id <= 2; ++id) {
    harness.Add({.id = id, .prompt = MakePrompt(20, 1), .max_tokens = 5, .num_choices = 2});
    harness.RunAll();
    EXPECT_EQ(harness.answer(id).cached_tokens, 0);
    EXPECT_EQ(harness.scheduler().blocks().num_cached(), 0);
  }
  EXPECT_EQ(harness.scheduler().stats().prefix_cache_queries, 0);
  harness.ExpectAnswersAreRight();
}

TEST(PrefixCacheTest, TheLongestUnusedIsEvictedAndItsEndFirst) {
  SchedulerHarness harness({.num_blocks = 12, .block_size = 4});
  harness.Add({.id = 1, .prompt = MakePrompt(16, 1), .max_tokens = 1});
  harness.RunAll();
  harness.Add({.id = 2, .prompt = MakePrompt(16, 2), .max_tokens = 1});
  harness.RunAll();
  EXPECT_EQ(harness.scheduler().blocks().num_cached(), 8);
  harness.Add({.id = 3, .prompt = MakePrompt(24, 3), .max_tokens = 1});  // needs 6 of 4 free ones
  harness.RunAll();
  harness.Add({.id = 4, .prompt = MakePrompt(17, 1), .max_tokens = 1});
  harness.RunAll();
  EXPECT_EQ(harness.answer(4).cached_tokens, 8) << "the end of the oldest went, its beginning stayed";
  harness.ExpectAnswersAreRight();
}

TEST(PrefixCacheTest, PromptScoresAreComputedInSpiteOfTheCache) {
  SchedulerHarness harness({.block_size = 4});
  harness.Add({.id = 1, .prompt = MakePrompt(20, 1), .max_tokens = 2, .num_choices = 2});
  harness.RunAll();
  harness.Add({.id = 2, .prompt = MakePrompt(20, 1), .max_tokens = 2, .num_choices = 2, .num_prompt_logprobs = 1});
  harness.RunAll();
  EXPECT_EQ(harness.answer(2).prompt_scores.size(), 19);
  EXPECT_EQ(harness.answer(2).cached_tokens, 0);
  harness.Add(
      {.id = 3, .prompt = MakePrompt(20, 1), .max_tokens = 2, .num_prompt_logprobs = 1, .prompt_scores_sent = 9});
  harness.RunAll();
  EXPECT_EQ(harness.answer(3).prompt_scores.size(), 10);
  EXPECT_EQ(harness.answer(3).cached_tokens, 8) << "scores are wanted of what follows";
  harness.ExpectAnswersAreRight();
}

TEST(PrefixCacheTest, ARequestThatWasPreemptedFindsItsBlocksAgain) {
  SchedulerHarness harness({.num_blocks = 8, .block_size = 4});
  harness.Add({.id = 1, .prompt = MakePrompt(8, 1), .max_tokens = 16});
  harness.Add({.id = 2, .prompt = MakePrompt(8, 2), .max_tokens = 16});
  harness.RunAll();
  EXPECT_GT(harness.scheduler().stats().preemptions, 0);
  EXPECT_LT(harness.executor().num_tokens(), 2 * (8 + 15) + 16) << "not all was computed again";
  EXPECT_EQ(harness.answer(2).cached_tokens, 0) << "its own recomputation is no hit";
  harness.ExpectAnswersAreRight();
}

TEST(PrefixCacheTest, NothingOfARowThatIsNotFiniteStaysCached) {
  // Nobody saw the logits of the first chunks, so they may have gone wrong as well.
  SchedulerHarness harness({.block_size = 4, .max_num_batched_tokens = 8, .nonfinite_token = 49});
  std::vector<int32_t> prompt = MakePrompt(20, 1);
  prompt[18] = 49;
  harness.Add({.id = 1, .prompt = prompt, .max_tokens = 2});
  harness.RunAll();
  EXPECT_EQ(harness.answer(1).finish, FinishReason::kError);
  EXPECT_EQ(harness.scheduler().blocks().num_cached(), 0);
}

TEST(PrefixCacheTest, ChoicesThatOutliveTheFirstOneUseTheCache) {
  SchedulerHarness harness({.block_size = 4});
  harness.Add({.id = 1, .prompt = MakePrompt(20, 1), .max_tokens = 1, .num_choices = 3});
  harness.RunAll();
  EXPECT_EQ(harness.executor().num_tokens(), 20 + 2 * 4) << "the first had gone when the others began";
  EXPECT_EQ(harness.answer(1, 2).cached_tokens, 0);
  harness.ExpectAnswersAreRight();
}

}  // namespace
}  // namespace optserve
