#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/engine/scheduler/harness.h"

// Who gets how much of the machine, and when.

namespace optserve {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kMillisecond = 1'000'000;

// 1 if all have had the same, 1 / n if one has had all (Jain, Chiu and Hawe 1984).
double JainIndex(const std::vector<double>& service) {
  const double sum = std::accumulate(service.begin(), service.end(), 0.0);
  const double squares = std::inner_product(service.begin(), service.end(), service.begin(), 0.0);
  return sum * sum / (static_cast<double>(service.size()) * squares);
}

TEST(FairnessTest, AFloodingUserDoesNotDisturbTheOthersShares) {
  SchedulerHarness harness({.num_blocks = 400, .block_size = 4, .max_num_seqs = 8, .max_num_batched_tokens = 64});
  constexpr int kOthers = 9;
  RequestId next_id = 1;
  std::map<RequestId, int> user_of;
  const auto add = [&](int user, int32_t prompt_tokens, int32_t max_tokens) {
    user_of[next_id] = user;
    harness.Add({.id = next_id,
                 .prompt = MakePrompt(prompt_tokens, next_id),
                 .max_tokens = max_tokens,
                 .user = std::to_string(user)});
    ++next_id;
  };
  for (int i = 0; i < 3000; ++i) add(/*user=*/0, 20, 20);
  std::vector<double> service(kOthers + 1);
  std::vector<int> outstanding(kOthers + 1);
  std::map<std::pair<RequestId, bool>, int> seen;
  std::map<RequestId, int> live;
  for (int step = 0; step < 4000; ++step) {
    // The others always have two requests waiting or running, of very different kinds.
    for (int user = 1; user <= kOthers; ++user) {
      while (outstanding[user] < 2) {
        live[next_id] = user;
        add(user, 3 + 6 * user, user % 2 == 0 ? 4 : 25);
        ++outstanding[user];
      }
    }
    const StepPlan& plan = harness.Step();
    for (size_t i = 0; i < plan.slices.size(); ++i) {
      const SequenceSlice& slice = plan.slices[i];
      // One choice each, so sequences are numbered like requests.
      service[user_of.at(slice.sequence)] += static_cast<double>(RequestCost(slice.num_tokens, slice.num_cached));
    }
    for (auto it = live.begin(); it != live.end();) {
      const bool is_done = harness.answer(it->first).finish != FinishReason::kNone;
      if (is_done) --outstanding[it->second];
      it = is_done ? live.erase(it) : std::next(it);
    }
  }
  EXPECT_GE(JainIndex({service.begin() + 1, service.end()}), 0.95);
  EXPECT_GE(JainIndex(service), 0.95) << "the flood itself gets its share and no more";
}

TEST(FairnessTest, ANewUserStartsBeforeTheFloodsQueue) {
  SchedulerHarness harness({.num_blocks = 400, .max_num_seqs = 2});
  for (RequestId id = 1; id <= 100; ++id) {
    harness.Add({.id = id, .prompt = MakePrompt(8, id), .max_tokens = 4, .api_key_id = "flood"});
  }
  for (int step = 0; step < 6; ++step) harness.Step();
  harness.Add({.id = 101, .prompt = MakePrompt(8, 101), .max_tokens = 4, .api_key_id = "new"});
  for (int step = 0; step < 4; ++step) harness.Step();
  EXPECT_GE(harness.answer(101).tokens.size(), 1) << "it took the next place that became free";
}

// How many places each request has in the step.
std::map<RequestId, int> PlacesOf(const StepPlan& plan, const std::map<SequenceId, RequestId>& request_of) {
  std::map<RequestId, int> places;
  for (const SequenceSlice& slice : plan.slices) ++places[request_of.at(slice.sequence)];
  return places;
}

// Requests get their sequences' ids in the order of Add.
class PlacesTest : public testing::Test {
 protected:
  void Add(GenerateRequest request) {
    for (int32_t choice = 0; choice < request.num_choices; ++choice) request_of_[next_sequence_++] = request.id;
    harness_.Add(request);
  }
  std::map<RequestId, int> Step() { return PlacesOf(harness_.Step(), request_of_); }

  SchedulerHarness harness_{{.num_blocks = 2000, .block_size = 4, .max_num_seqs = 16}};
  std::map<SequenceId, RequestId> request_of_;
  SequenceId next_sequence_ = 1;
};

TEST_F(PlacesTest, ARequestWithManyAnswersHasAllPlacesWhileNobodyWaits) {
  Add({.id = 1, .prompt = MakePrompt(9, 1), .max_tokens = 40, .num_choices = 64});
  for (int step = 0; step < 3; ++step) Step();
  EXPECT_EQ(Step()[1], 16);
}

TEST_F(PlacesTest, WhoeverComesBesideManyAnswersStartsInTheNextStep) {
  Add({.id = 1, .prompt = MakePrompt(9, 1), .max_tokens = 40, .num_choices = 64, .api_key_id = "many"});
  for (int step = 0; step < 5; ++step) Step();
  Add({.id = 2, .prompt = MakePrompt(9, 2), .max_tokens = 9, .api_key_id = "another key"});
  Add({.id = 3, .prompt = MakePrompt(9, 3), .max_tokens = 9, .api_key_id = "many", .user = "another user"});
  Add({.id = 4, .prompt = MakePrompt(9, 4), .max_tokens = 9, .api_key_id = "many"});
  Step();
  for (const RequestId id : {2, 3, 4}) EXPECT_EQ(harness_.answer(id).tokens.size(), 1) << "request " << id;
  EXPECT_EQ(harness_.scheduler().stats().preemptions, 3) << "a place for each, and no more";
  EXPECT_EQ(Step()[1], 13) << "the rest stays in use";
  harness_.RunAll();
  harness_.ExpectAnswersAreRight();
}

TEST_F(PlacesTest, ManyAnswersLeaveBlocksToOthersToo) {
  SchedulerHarness harness({.num_blocks = 60, .block_size = 4, .max_num_seqs = 64});
  harness.Add({.id = 1, .prompt = MakePrompt(8, 1), .max_tokens = 100, .num_choices = 32, .api_key_id = "many"});
  while (harness.scheduler().blocks().num_available() > 3) harness.Step();
  harness.Add({.id = 2, .prompt = MakePrompt(24, 2), .max_tokens = 9, .api_key_id = "another"});
  harness.Step();
  EXPECT_EQ(harness.answer(2).tokens.size(), 1);
  harness.RunAll();
  harness.ExpectAnswersAreRight();
}

TEST_F(PlacesTest, PlacesBecomeEvenAndFollowTheWeights) {
  Add({.id = 1, .prompt = MakePrompt(9, 1), .max_tokens = 200, .num_choices = 64, .api_key_id = "a"});
  for (int step = 0; step < 5; ++step) Step();
  Add({.id = 2, .prompt = MakePrompt(9, 2), .max_tokens = 200, .num_choices = 64, .api_key_id = "b"});
  Add({.id = 3,
       .prompt = MakePrompt(9, 3),
       .max_tokens = 200,
       .num_choices = 64,
       .api_key_id = "c",
       .share_weight = 2});
  for (int step = 0; step < 4; ++step) Step();
  for (int step = 0; step < 50; ++step) {
    std::map<RequestId, int> places = Step();
    EXPECT_EQ(places[1], 4);
    EXPECT_EQ(places[2], 4);
    EXPECT_EQ(places[3], 8);
  }
  const uint64_t preemptions = harness_.scheduler().stats().preemptions;
  for (int step = 0; step < 50; ++step) Step();
  EXPECT_EQ(harness_.scheduler().stats().preemptions, preemptions) << "places do not go to and fro";
  harness_.RunAll();
  harness_.ExpectAnswersAreRight();
}

TEST_F(PlacesTest, JainIndexOfTheOthersBesideManyAnswers) {
  Add({.id = 1, .prompt = MakePrompt(20, 1), .max_tokens = 900, .num_choices = 128, .user = "many"});
  for (int step = 0; step < 5; ++step) Step();
  constexpr int kOthers = 9;
  std::map<RequestId, int> live;
  std::map<RequestId, int> user_of;
  std::vector<double> service(kOthers);
  RequestId next_id = 2;
  for (int step = 0; step < 1500; ++step) {
    std::vector<int> outstanding(kOthers);
    for (const auto& [id, user] : live) ++outstanding[user];
    for (int user = 0; user < kOthers; ++user) {
      for (; outstanding[user] < 3; ++outstanding[user]) {
        user_of[next_id] = live[next_id] = user;
        Add({.id = next_id,
             .prompt = MakePrompt(4 + 5 * user, next_id),
             .max_tokens = user % 2 == 0 ? 5 : 24,
             .user = std::to_string(user)});
        ++next_id;
      }
    }
    const StepPlan& plan = harness_.Step();
    for (const SequenceSlice& slice : plan.slices) {
      const auto user = user_of.find(request_of_.at(slice.sequence));
      if (user == user_of.end()) continue;
      service[user->second] += static_cast<double>(RequestCost(slice.num_tokens, slice.num_cached));
    }
    std::erase_if(live, [&](const auto& entry) { return harness_.answer(entry.first).finish != FinishReason::kNone; });
  }
  EXPECT_GE(JainIndex(service), 0.95);
  EXPECT_FALSE(harness_.answer(1, 0).tokens.empty());
}

GenerateRequest BatchRequest(RequestId id, int32_t prompt_tokens, int32_t max_tokens) {
  return {.id = id, .prompt = MakePrompt(prompt_tokens, id), .max_tokens = max_tokens, .batch = true};
}

TEST(BatchLaneTest, StartsOnlyWhenNobodyWaits) {
  SchedulerHarness harness({.max_num_seqs = 1});
  harness.Add(BatchRequest(1, 4, 2));
  harness.Add({.id = 2, .prompt = MakePrompt(4, 2), .max_tokens = 2});
  harness.Add({.id = 3, .prompt = MakePrompt(4, 3), .max_tokens = 2});
  for (int step = 0; step < 4; ++step) harness.Step();
  EXPECT_EQ(harness.answer(3).finish, FinishReason::kLength);
  EXPECT_EQ(harness.answer(1).tokens.size(), 0);
  harness.RunAll();
  harness.ExpectAnswersAreRight();
}

TEST(BatchLaneTest, YieldsItsPlaceWithinOneStep) {
  SchedulerHarness harness({.max_num_seqs = 3});
  for (RequestId id = 1; id <= 3; ++id) harness.Add(BatchRequest(id, 4, 50));
  harness.Step();
  harness.Step();
  harness.Add({.id = 4, .prompt = MakePrompt(4, 4), .max_tokens = 3});
  harness.Step();
  EXPECT_EQ(harness.answer(4).tokens.size(), 1);
  EXPECT_EQ(harness.scheduler().stats().preemptions, 1) << "the youngest one's";
  harness.RunAll();
  harness.ExpectAnswersAreRight();
}

TEST(BatchLaneTest, YieldsItsBlocksWithinOneStep) {
  SchedulerHarness harness({.num_blocks = 12, .block_size = 4});
  for (RequestId id = 1; id <= 3; ++id) harness.Add(BatchRequest(id, 15, 20));
  harness.Step();
  EXPECT_EQ(harness.scheduler().blocks().num_available(), 0);
  harness.Add({.id = 4, .prompt = MakePrompt(30, 4), .max_tokens = 3});  // 8 blocks: two must go
  harness.Step();
  EXPECT_EQ(harness.answer(4).tokens.size(), 1);
  EXPECT_EQ(harness.scheduler().stats().preemptions, 2);
  harness.RunAll();
  harness.ExpectAnswersAreRight();
}

TEST(BatchLaneTest, DoesNotSlipInWhereSomebodyInteractiveWaitsForBlocks) {
  SchedulerHarness harness({.num_blocks = 12, .block_size = 4});
  harness.Add({.id = 1, .prompt = MakePrompt(30, 1), .max_tokens = 5});
  harness.Step();
  harness.Add({.id = 2, .prompt = MakePrompt(30, 2), .max_tokens = 5});
  harness.Add(BatchRequest(3, 4, 2));
  while (harness.answer(2).tokens.empty()) {
    EXPECT_TRUE(harness.answer(3).tokens.empty()) << "it would be preempted and start again in every step";
    harness.Step();
  }
  EXPECT_EQ(harness.scheduler().stats().preemptions, 0);
  harness.RunAll();
  harness.ExpectAnswersAreRight();
}

TEST(BatchLaneTest, ALongCachedPrefixMayCostMoreThanTheStepHasRoomFor) {
  SchedulerHarness harness({.num_blocks = 1000, .max_model_len = 2000},
                           [](SchedulerOptions& options) { options.batch_step_tokens = 4; });
  harness.Add({.id = 1, .prompt = MakePrompt(1200, 1), .max_tokens = 1});
  harness.Add({.id = 2, .prompt = MakePrompt(4, 2), .max_tokens = 6});
  harness.Step();
  harness.Add({.id = 3, .prompt = MakePrompt(1200, 1), .max_tokens = 2, .batch = true});
  harness.RunAll();
  EXPECT_EQ(harness.answer(3).cached_tokens, 1196);
  harness.ExpectAnswersAreRight();
}

TEST(BatchLaneTest, IsPreemptedBeforeAnybodyInteractive) {
  SchedulerHarness harness({.num_blocks = 12, .block_size = 4});
  harness.Add(BatchRequest(1, 15, 20));
  harness.Step();
  harness.Add({.id = 2, .prompt = MakePrompt(15, 2), .max_tokens = 30});
  while (harness.answer(2).finish == FinishReason::kNone) {
    harness.Step();
    EXPECT_LE(harness.scheduler().stats().preemptions, 1);
  }
  EXPECT_EQ(harness.scheduler().stats().preemptions, 1);
  EXPECT_EQ(harness.answer(1).finish, FinishReason::kNone) << "the older one had to go, because it is batch work";
  harness.RunAll();
  harness.ExpectAnswersAreRight();
}

TEST(BatchLaneTest, StepsStayShortWhileSomebodyInteractiveIsAbout) {
  SchedulerHarness harness({.num_blocks = 1000, .block_size = 4, .max_num_batched_tokens = 512},
                           [](SchedulerOptions& options) { options.batch_step_tokens = 32; });
  for (RequestId id = 1; id <= 99; ++id) harness.Add(BatchRequest(id, 90, 30));
  harness.Add({.id = 100, .prompt = MakePrompt(4, 100), .max_tokens = 2});
  int64_t now_ns = 0;
  int steps_with_batch = 0;
  for (int step = 0; step < 90; ++step, now_ns += 100 * kMillisecond) {
    const StepPlan& plan = harness.Step(now_ns);
    int64_t cost = 0;
    for (const SequenceSlice& slice : plan.slices) cost += RequestCost(slice.num_tokens, slice.num_cached);
    EXPECT_LE(cost, 32 * kCostContext) << "step " << step;
    steps_with_batch += plan.slices.size() > 1 || step > 2 ? 1 : 0;
  }
  EXPECT_GT(steps_with_batch, 80);
  // Nobody has come for ten seconds: the machine is theirs.
  for (; now_ns <= 10 * kSecond; now_ns += 100 * kMillisecond) harness.Step(now_ns);
  EXPECT_GT(harness.Step(now_ns + kSecond).token_ids.size(), 300);
  harness.RunAll();
  harness.ExpectAnswersAreRight();
}

TEST(BatchLaneTest, IsNotStarvedForever) {
  SchedulerHarness harness({.num_blocks = 400, .max_num_seqs = 2});
  harness.Add(BatchRequest(1, 4, 3));
  harness.Add(BatchRequest(2, 4, 3));
  RequestId next = 10;
  int64_t now_ns = 0;
  std::map<RequestId, int64_t> finished_ns;
  for (; now_ns < 40 * kSecond; now_ns += 100 * kMillisecond) {
    while (harness.scheduler().num_waiting() < 6) {
      harness.Add({.id = next, .prompt = MakePrompt(4, next), .max_tokens = 6}, now_ns);
      ++next;
    }
    harness.Step(now_ns);
    for (const RequestId id : {1, 2}) {
      if (harness.answer(id).finish != FinishReason::kNone) finished_ns.try_emplace(id, now_ns);
    }
  }
  ASSERT_EQ(finished_ns.size(), 2);
  EXPECT_GT(finished_ns[1], 10 * kSecond);
  EXPECT_LT(finished_ns[1], 13 * kSecond);
  EXPECT_GT(finished_ns[2], 20 * kSecond) << "one at a time";
  harness.ExpectAnswersAreRight();
}

}  // namespace
}  // namespace optserve
