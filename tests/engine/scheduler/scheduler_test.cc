#include "engine/scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/scheduler/harness.h"

namespace optserve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int32_t> SliceTokens(const StepPlan& plan) {
  std::vector<int32_t> sizes;
  for (const SequenceSlice& slice : plan.slices) sizes.push_back(slice.num_tokens);
  return sizes;
}

TEST(SchedulerTest, OneRequestRunsToItsEnd) {
  SchedulerHarness harness({});
  harness.Add({.id = 1, .prompt = MakePrompt(10, 1), .max_tokens = 5});
  EXPECT_EQ(harness.Step().slices[0].num_tokens, 10);
  EXPECT_EQ(harness.answer(1).tokens.size(), 1);
  EXPECT_EQ(harness.Step().num_decode, 1);
  harness.RunAll();
  EXPECT_EQ(harness.answer(1).finish, FinishReason::kLength);
  EXPECT_EQ(harness.executor().num_steps(), 5);
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 0);
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, WithoutWorkThePlanIsEmpty) {
  SchedulerHarness harness({});
  EXPECT_FALSE(harness.scheduler().HasWork());
  EXPECT_THAT(harness.Step().slices, IsEmpty());
}

TEST(SchedulerTest, SequencesJoinAndLeaveAtEveryStep) {
  SchedulerHarness harness({});
  harness.Add({.id = 1, .prompt = MakePrompt(4, 1), .max_tokens = 3});
  harness.Step();
  harness.Add({.id = 2, .prompt = MakePrompt(6, 2), .max_tokens = 3});
  EXPECT_THAT(SliceTokens(harness.Step()), ElementsAre(1, 6));
  EXPECT_THAT(SliceTokens(harness.Step()), ElementsAre(1, 1));
  EXPECT_EQ(harness.answer(1).finish, FinishReason::kLength);
  EXPECT_THAT(SliceTokens(harness.Step()), ElementsAre(1));
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, LongPromptIsPrefilledInChunksWhileOthersDecode) {
  SchedulerHarness harness({.max_num_batched_tokens = 8});
  harness.Add({.id = 1, .prompt = MakePrompt(3, 1), .max_tokens = 10});
  harness.Step();
  harness.Add({.id = 2, .prompt = MakePrompt(20, 2), .max_tokens = 2});
  EXPECT_THAT(SliceTokens(harness.Step()), ElementsAre(1, 7));
  EXPECT_THAT(SliceTokens(harness.Step()), ElementsAre(1, 7));
  const StepPlan& last = harness.Step();
  EXPECT_THAT(SliceTokens(last), ElementsAre(1, 6));
  EXPECT_TRUE(last.slices[1].wants_sample);
  EXPECT_EQ(harness.answer(1).tokens.size(), 4) << "decoding went on beside the chunks";
  EXPECT_EQ(harness.answer(2).tokens.size(), 1);
  harness.RunAll();
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, NoMoreThanMaxNumSeqsRun) {
  SchedulerHarness harness({.max_num_seqs = 2});
  for (RequestId id = 1; id <= 5; ++id) harness.Add({.id = id, .prompt = MakePrompt(4, id), .max_tokens = 3});
  harness.Step();
  EXPECT_EQ(harness.scheduler().num_running(), 2);
  EXPECT_EQ(harness.scheduler().num_waiting(), 3);
  harness.RunAll();
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, FewerBatchedTokensThanSequences) {
  SchedulerHarness harness({.max_num_seqs = 8, .max_num_batched_tokens = 3});
  for (RequestId id = 1; id <= 6; ++id) harness.Add({.id = id, .prompt = MakePrompt(5, id), .max_tokens = 4});
  harness.RunAll();
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, TheYoungestIsPreemptedAndComesBackUnchanged) {
  // Two answers that need 6 blocks each at their end, in a pool of 8.
  SchedulerHarness harness({.num_blocks = 8, .block_size = 4});
  harness.Add({.id = 1, .prompt = MakePrompt(8, 1), .max_tokens = 16});
  harness.Add({.id = 2, .prompt = MakePrompt(8, 2), .max_tokens = 16});
  while (harness.scheduler().stats().preemptions == 0) harness.Step();
  EXPECT_EQ(harness.scheduler().num_running(), 1);
  EXPECT_GT(harness.answer(1).tokens.size(), harness.answer(2).tokens.size());
  harness.RunAll();
  EXPECT_EQ(harness.answer(1).finish, FinishReason::kLength);
  EXPECT_EQ(harness.answer(2).finish, FinishReason::kLength);
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, PreemptedSequenceComesBeforeNewOnes) {
  SchedulerHarness harness({.num_blocks = 8, .block_size = 4});
  harness.Add({.id = 1, .prompt = MakePrompt(8, 1), .max_tokens = 16});
  harness.Add({.id = 2, .prompt = MakePrompt(8, 2), .max_tokens = 16});
  while (harness.scheduler().stats().preemptions == 0) harness.Step();
  const size_t tokens_at_preemption = harness.answer(2).tokens.size();
  harness.Add({.id = 3, .prompt = MakePrompt(1, 3), .max_tokens = 1});
  while (harness.answer(3).finish == FinishReason::kNone) harness.Step();
  EXPECT_GT(harness.answer(2).tokens.size(), tokens_at_preemption);
  harness.RunAll();
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, ChoicesShareThePromptAndCopyTheBlockTheyWrite) {
  SchedulerHarness harness({.num_blocks = 64, .block_size = 4});
  harness.Add({.id = 1, .prompt = MakePrompt(10, 1), .max_tokens = 6, .num_choices = 4});
  harness.Step();
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 3) << "one choice computes the prompt";
  const StepPlan& fork = harness.Step();
  EXPECT_EQ(fork.block_copies.size(), 3);
  EXPECT_THAT(SliceTokens(fork), ElementsAre(1, 1, 1, 1)) << "the others compute its last token again";
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 2 + 4) << "two full blocks are shared";
  harness.RunAll();
  EXPECT_EQ(harness.executor().num_tokens(), 10 + 3 + 4 * 5);
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, ChoicesOfPromptsOfEveryLength) {
  for (int32_t prompt_tokens = 1; prompt_tokens <= 9; ++prompt_tokens) {
    SchedulerHarness harness({.num_blocks = 64, .block_size = 4});
    harness.Add({.id = 1, .prompt = MakePrompt(prompt_tokens, 1), .max_tokens = 6, .num_choices = 3});
    harness.RunAll();
    harness.ExpectAnswersAreRight();
  }
}

TEST(SchedulerTest, MoreChoicesThanMayRunTakeTurns) {
  SchedulerHarness harness({.num_blocks = 12, .block_size = 4, .max_num_seqs = 3});
  harness.Add({.id = 1, .prompt = MakePrompt(9, 1), .max_tokens = 20, .num_choices = 10});
  harness.RunAll();
  for (int32_t choice = 0; choice < 10; ++choice) EXPECT_EQ(harness.answer(1, choice).finish, FinishReason::kLength);
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, WhenTheFirstChoiceIsCancelledTheNextOneComputesThePrompt) {
  SchedulerHarness harness({.max_num_batched_tokens = 8});
  harness.Add({.id = 1, .prompt = MakePrompt(20, 1), .max_tokens = 4, .num_choices = 3});
  harness.Step();
  harness.CancelChoice(1, 0);
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 0);
  harness.RunAll();
  EXPECT_EQ(harness.answer(1, 0).finish, FinishReason::kCancelled);
  EXPECT_EQ(harness.answer(1, 1).finish, FinishReason::kLength);
  EXPECT_EQ(harness.answer(1, 2).finish, FinishReason::kLength);
  EXPECT_EQ(harness.executor().num_tokens(), 8 + (20 - 8) + 1 + 2 * 3) << "each token of the prompt once";
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, StopTokenEndsAnAnswerAndIsItsLastToken) {
  const FakeExecutor::Options options;
  GenerateRequest request{.id = 1, .prompt = MakePrompt(5, 1), .max_tokens = 10};
  request.stop_token_ids = {ExpectAnswer(request, 0, options).tokens[3].id};
  SchedulerHarness harness(options);
  harness.Add(request);
  harness.RunAll();
  EXPECT_EQ(harness.answer(1).finish, FinishReason::kStop);
  EXPECT_EQ(harness.answer(1).tokens.back().id, request.stop_token_ids[0]);
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, StopTokensAreSuppressedBeforeMinTokens) {
  SchedulerHarness harness({.vocab_size = 8});
  GenerateRequest request{.id = 1, .prompt = {5, 6}, .max_tokens = 30, .stop_token_ids = {2, 3, 4}};
  request.sampling.min_tokens = 12;
  harness.Add(request);
  EXPECT_THAT(harness.Step().slices[0].suppressed, ElementsAre(2, 3, 4));
  harness.RunAll();
  EXPECT_EQ(harness.answer(1).finish, FinishReason::kStop);
  EXPECT_GT(harness.answer(1).tokens.size(), 12);
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, PenaltiesSeeThePromptAndWhatWasGenerated) {
  SchedulerHarness harness({.vocab_size = 8});
  GenerateRequest request{.id = 1, .prompt = {5, 6, 5}, .max_tokens = 20};
  request.sampling.frequency_penalty = 0.5f;
  harness.Add(request);
  const StepPlan& plan = harness.Step();
  ASSERT_EQ(plan.slices[0].seen.size(), 2);
  EXPECT_EQ(plan.slices[0].seen[0].id, 5);
  EXPECT_EQ(plan.slices[0].seen[0].generated, 0);
  harness.RunAll();
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, NoNgramIsRepeated) {
  for (const int32_t n : {1, 2, 3}) {
    SchedulerHarness harness({.vocab_size = 60});
    GenerateRequest request{.id = 1, .prompt = {5, 6, 5, 6}, .max_tokens = 40};
    request.sampling.no_repeat_ngram_size = n;
    request.sampling.vocab_limit = n == 1 ? 60 : 8;
    harness.Add(request);
    harness.RunAll();
    harness.ExpectAnswersAreRight();
  }
}

TEST(SchedulerTest, PromptScoresComeOnceAndInOrderWhateverTheChunks) {
  for (const int32_t chunk : {1, 3, 7, 64}) {
    SchedulerHarness harness({.max_num_batched_tokens = chunk});
    harness.Add({.id = 1, .prompt = MakePrompt(20, 1), .max_tokens = 3, .num_choices = 2, .num_prompt_logprobs = 2});
    harness.RunAll();
    EXPECT_EQ(harness.answer(1).prompt_scores.size(), 19);
    EXPECT_EQ(harness.answer(1, 1).prompt_scores.size(), 0);
    harness.ExpectAnswersAreRight();
  }
}

TEST(SchedulerTest, ScoringAloneGeneratesNothing) {
  SchedulerHarness harness({.max_num_batched_tokens = 8});
  harness.Add({.id = 1, .prompt = MakePrompt(20, 1), .max_tokens = 0, .num_prompt_logprobs = 0});
  harness.Add({.id = 2, .prompt = {7}, .max_tokens = 0, .num_choices = 3, .num_prompt_logprobs = 0});
  harness.RunAll();
  EXPECT_EQ(harness.answer(1).finish, FinishReason::kLength);
  EXPECT_EQ(harness.answer(1).tokens.size(), 0);
  EXPECT_EQ(harness.answer(1).prompt_scores.size(), 19);
  for (int32_t choice = 0; choice < 3; ++choice) EXPECT_EQ(harness.answer(2, choice).finish, FinishReason::kLength);
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, ResumedRequestGoesOnBehindItsTokens) {
  const FakeExecutor::Options options{.max_num_batched_tokens = 6};
  GenerateRequest request{.id = 1, .prompt = MakePrompt(20, 1), .max_tokens = 10, .num_prompt_logprobs = 1};
  request.sampling.presence_penalty = 1.0f;
  request.sampling.no_repeat_ngram_size = 2;
  const ExpectedAnswer whole = ExpectAnswer(request, 0, options);
  for (int i = 0; i < 4; ++i) request.generated.push_back(whole.tokens[i].id);
  request.prompt_scores_sent = 7;
  SchedulerHarness harness(options);
  harness.Add(request);
  harness.RunAll();
  ASSERT_EQ(harness.answer(1).tokens.size(), 6);
  EXPECT_TRUE(harness.answer(1).tokens[0] == whole.tokens[4]);
  EXPECT_TRUE(harness.answer(1).prompt_scores[0] == whole.prompt_scores[7]);
  EXPECT_EQ(harness.answer(1).prompt_scores.size(), 12);
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, CancelAtEveryStageFreesBlocksBeforeTheNextPlan) {
  SchedulerHarness harness({.max_num_seqs = 1, .max_num_batched_tokens = 8});
  harness.Add({.id = 1, .prompt = MakePrompt(20, 1), .max_tokens = 10});
  harness.Add({.id = 2, .prompt = MakePrompt(20, 2), .max_tokens = 10});
  harness.Step();
  harness.Cancel(2);  // queued
  EXPECT_EQ(harness.answer(2).finish, FinishReason::kCancelled);
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 5);
  harness.Cancel(1);  // between chunks
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 0);
  harness.Add({.id = 3, .prompt = MakePrompt(4, 3), .max_tokens = 10});
  harness.Step();
  harness.Step();
  harness.Cancel(3);  // decoding
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 0);
  EXPECT_FALSE(harness.scheduler().HasWork());
  harness.Cancel(3);
  harness.Cancel(77);
  harness.CancelChoice(77, 0);
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, DeadlinesEndQueuedAndRunningRequests) {
  SchedulerHarness harness({.max_num_seqs = 1});
  harness.Add({.id = 1, .prompt = MakePrompt(4, 1), .max_tokens = 10, .deadline_ns = 1000});
  harness.Add({.id = 2, .prompt = MakePrompt(4, 2), .max_tokens = 10, .deadline_ns = 500});
  harness.Add({.id = 3, .prompt = MakePrompt(4, 3), .max_tokens = 10});
  harness.Step(499);
  EXPECT_EQ(harness.answer(2).finish, FinishReason::kNone);
  harness.Step(500);
  EXPECT_EQ(harness.answer(2).finish, FinishReason::kDeadline);
  EXPECT_EQ(harness.answer(1).tokens.size(), 2);
  harness.Step(1000);
  EXPECT_EQ(harness.answer(1).finish, FinishReason::kDeadline);
  EXPECT_EQ(harness.answer(3).tokens.size(), 1) << "its place was free before the plan";
  harness.RunAll();
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, ADeadlineInThePromptAndOneAtTheLastTokenFreeTheBlocks) {
  SchedulerHarness harness({.max_num_seqs = 1, .max_num_batched_tokens = 8});
  harness.Add({.id = 1, .prompt = MakePrompt(20, 1), .max_tokens = 10, .deadline_ns = 100});
  harness.Add({.id = 2, .prompt = MakePrompt(4, 2), .max_tokens = 3, .deadline_ns = 200});
  harness.Step(10);
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 5);
  harness.Step(100);
  EXPECT_EQ(harness.answer(1).finish, FinishReason::kDeadline);
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 1) << "the next one has started in the same plan";
  harness.Step(110);
  EXPECT_EQ(harness.answer(2).tokens.size(), 2);
  harness.Step(200);
  EXPECT_EQ(harness.answer(2).finish, FinishReason::kDeadline) << "its last token was due";
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 0);
  harness.ExpectAnswersAreRight();
}

TEST(PlanningAheadTest, ATokenThatIsBeingDrawnStandsInThePlanByItsSlice) {
  SchedulerHarness harness({});
  harness.Add({.id = 1, .prompt = MakePrompt(4, 1), .max_tokens = 3});
  harness.scheduler().PlanStep(0);
  const StepPlan& second = harness.scheduler().PlanStep(0);
  EXPECT_THAT(second.token_ids, ElementsAre(DrawnBySlice(0)));
  EXPECT_EQ(second.slices[0].num_cached, 4);
  EXPECT_EQ(harness.scheduler().num_steps_in_flight(), 2);
}

TEST(PlanningAheadTest, NothingIsPlannedBehindTheLastToken) {
  SchedulerHarness harness({});
  harness.Add({.id = 1, .prompt = MakePrompt(4, 1), .max_tokens = 1});
  harness.scheduler().PlanStep(0);
  EXPECT_THAT(harness.scheduler().PlanStep(0).slices, IsEmpty());
  EXPECT_EQ(harness.scheduler().num_steps_in_flight(), 1);
}

TEST(PlanningAheadTest, WhoMustKnowEveryTokenIsWaitedFor) {
  SchedulerHarness harness({});
  GenerateRequest request{.id = 1, .prompt = MakePrompt(4, 1), .max_tokens = 9};
  request.sampling.frequency_penalty = 0.5f;
  harness.Add(request);
  harness.scheduler().PlanStep(0);
  EXPECT_FALSE(harness.scheduler().CanPlanAhead());
}

TEST(PlanningAheadTest, CancelFreesBlocksWithTwoStepsUnderWay) {
  SchedulerHarness harness({.num_blocks = 64, .block_size = 4});
  harness.Add({.id = 1, .prompt = MakePrompt(10, 1), .max_tokens = 50});
  harness.Add({.id = 2, .prompt = MakePrompt(10, 2), .max_tokens = 50});
  for (int step = 0; step < 4; ++step) harness.StepAhead();
  harness.Cancel(1);
  harness.Add({.id = 3, .prompt = MakePrompt(10, 3), .max_tokens = 50});  // takes the blocks that are written yet
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 4);
  while (harness.HasWork()) harness.StepAhead();
  EXPECT_EQ(harness.answer(3).finish, FinishReason::kLength);
  harness.ExpectAnswersAreRight();
}

TEST(PlanningAheadTest, AStopTokenIsFoundAStepLateAndNothingComesBehindIt) {
  const FakeExecutor::Options options;
  GenerateRequest request{.id = 1, .prompt = MakePrompt(5, 1), .max_tokens = 10};
  request.stop_token_ids = {ExpectAnswer(request, 0, options).tokens[3].id};
  const size_t length = ExpectAnswer(request, 0, options).tokens.size();
  SchedulerHarness harness(options);
  harness.Add(request);
  while (harness.HasWork()) harness.StepAhead();
  EXPECT_EQ(harness.answer(1).finish, FinishReason::kStop);
  EXPECT_EQ(harness.answer(1).tokens.size(), length);
  EXPECT_EQ(harness.executor().num_steps(), length + 1) << "one row was computed in vain";
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 0);
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, RowThatIsNotFiniteFailsItsSequenceAlone) {
  SchedulerHarness harness({.nonfinite_token = 49});
  harness.Add({.id = 1, .prompt = {5, 49, 6}, .max_tokens = 4});
  harness.Add({.id = 2, .prompt = MakePrompt(5, 2), .max_tokens = 4, .stop_token_ids = {49}});
  harness.Add({.id = 3, .prompt = {5, 6, 49, 6}, .max_tokens = 0, .num_prompt_logprobs = 1});
  harness.RunAll();
  EXPECT_EQ(harness.answer(1).finish, FinishReason::kError);
  EXPECT_EQ(harness.answer(1).error.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(harness.answer(3).finish, FinishReason::kError);
  EXPECT_EQ(harness.answer(2).tokens.size(), 4);
  EXPECT_EQ(harness.scheduler().stats().nonfinite_rows, 2);
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 0);
}

TEST(SchedulerTest, BlocksOfARowThatWasNotFiniteAreZeroedBeforeSomebodyElseHasThem) {
  // The fake executor fails a plan that begins a block with NaN in it; the pool is so small that blocks come round.
  SchedulerHarness harness({.num_blocks = 12, .block_size = 4, .nonfinite_token = 49});
  for (RequestId id = 1; id <= 20; ++id) {
    std::vector<int32_t> prompt = MakePrompt(13, static_cast<int32_t>(id));
    for (int32_t& token : prompt) token = token == 49 ? 48 : token;
    if (id % 5 == 1) prompt[6] = 49;
    harness.Add({.id = id, .prompt = prompt, .max_tokens = 6, .num_choices = 2, .stop_token_ids = {49}});
  }
  size_t num_zeroed = 0;
  while (harness.scheduler().HasWork()) {
    num_zeroed += harness.Step().zeroed_blocks.size();
  }
  EXPECT_GT(num_zeroed, 0u);
  harness.ExpectAnswersAreRight();
}

TEST(SchedulerTest, NanWithSeveralPromptsIsTheDevicesFaultAndWithOneThePrompts) {
  SchedulerHarness harness({.nonfinite_token = 49});
  RequestId id = 1;
  for (; id <= 10; ++id) {
    harness.Add({.id = id, .prompt = {5, 49, 6}, .max_tokens = 4});
    harness.RunAll();
    EXPECT_FALSE(harness.scheduler().is_device_suspect());
  }
  for (int32_t token = 10; token < 13; ++token, ++id) {
    EXPECT_FALSE(harness.scheduler().is_device_suspect());
    harness.Add({.id = id, .prompt = {token, 49, 6}, .max_tokens = 4});
    harness.RunAll();
  }
  EXPECT_TRUE(harness.scheduler().is_device_suspect());
}

TEST(SchedulerTest, TheFirstTokenSaysHowLongItsRequestHasWaited) {
  SchedulerHarness harness({.max_num_seqs = 1});
  harness.Add({.id = 1, .prompt = MakePrompt(4, 1), .max_tokens = 2}, /*now_ns=*/5);
  harness.Add({.id = 2, .prompt = MakePrompt(4, 2), .max_tokens = 2}, /*now_ns=*/6);
  for (const int64_t now_ns : {10, 20, 30, 40}) harness.Step(now_ns);
  EXPECT_EQ(harness.answer(1).queue_ns, 5);
  EXPECT_EQ(harness.answer(2).queue_ns, 24);
}

TEST(SchedulerTest, AnswersShareTheTimeOfTheirStepsByTokens) {
  SchedulerHarness harness({.max_num_seqs = 2}, [](SchedulerOptions& options) { options.max_num_batched_tokens = 4; });
  harness.set_step_ns(1200);
  harness.Add({.id = 1, .prompt = MakePrompt(6, 1), .max_tokens = 2});  // steps of 4, 2 and 1 of its tokens
  harness.Add({.id = 2, .prompt = MakePrompt(2, 2), .max_tokens = 2});  // beside them 0, 2 and 1
  for (int i = 0; i < 3; ++i) harness.Step();
  EXPECT_EQ(harness.answer(1).engine_ns, 1200 + 600 + 600);
  EXPECT_EQ(harness.answer(2).engine_ns, 600 + 600);
  harness.Add({.id = 3, .prompt = MakePrompt(6, 3), .max_tokens = 2});
  harness.Step();
  harness.Cancel(3);  // what it has cost by then is said with its end
  EXPECT_EQ(harness.answer(3).engine_ns, 1200);
}

TEST(SchedulerTest, EndAllEndsEverything) {
  SchedulerHarness harness({.max_num_seqs = 2});
  for (RequestId id = 1; id <= 3; ++id) {
    harness.Add({.id = id, .prompt = MakePrompt(4, id), .max_tokens = 9, .num_choices = 2});
  }
  harness.Step();
  harness.scheduler().EndAll({.finish = FinishReason::kError, .error = absl::UnavailableError("gone")});
  EXPECT_EQ(harness.scheduler().events().size(), 6);
  for (const Scheduler::Event& event : harness.scheduler().events()) {
    EXPECT_EQ(event.event.finish, FinishReason::kError);
    EXPECT_EQ(event.event.error.message(), "gone");
  }
  EXPECT_FALSE(harness.scheduler().HasWork());
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 0);
}

}  // namespace
}  // namespace optserve
