#include "tests/engine/scheduler/traffic.h"

#include <gtest/gtest.h>

// Random traffic: whatever else is going on, an answer is what it would be alone.

namespace optserve {
namespace {

class TrafficTest : public testing::TestWithParam<std::tuple<int, bool>> {};  // seed; are steps planned ahead?

TEST_P(TrafficTest, EveryAnswerIsWhatItWouldBeAlone) {
  const auto [seed, plans_ahead] = GetParam();
  Traffic traffic(static_cast<uint64_t>(seed));
  const FakeExecutor::Options options = traffic.Pool();
  const int32_t batch_step_tokens = traffic.Uniform(0, 20);
  SchedulerHarness harness(options, [&](SchedulerOptions& o) { o.batch_step_tokens = batch_step_tokens; });
  // In some of the runs time flies, so that batch requests lose their patience and forget who was there.
  const int64_t step_ns = traffic.Chance(50) ? 1 : traffic.Uniform(100, 3000) * int64_t{1'000'000};
  const int32_t num_requests = 150;
  const int32_t arrival_percent = traffic.Uniform(5, 90);
  RequestId next = 1;
  int64_t now_ns = 1;
  for (int step = 0; step < 200000 && (next <= num_requests || harness.HasWork()); ++step, now_ns += step_ns) {
    while (next <= num_requests && traffic.Chance(arrival_percent)) {
      harness.Add(traffic.Request(next, options, now_ns, step_ns), now_ns);
      ++next;
    }
    if (traffic.Chance(5)) harness.Cancel(traffic.Uniform(1, static_cast<int32_t>(next)));
    if (traffic.Chance(5)) {
      harness.CancelChoice(traffic.Uniform(1, static_cast<int32_t>(next)), traffic.Uniform(0, 3));
    }
    if (plans_ahead) {
      harness.StepAhead(now_ns);
    } else {
      harness.Step(now_ns);
    }
  }
  EXPECT_FALSE(harness.HasWork());
  EXPECT_EQ(harness.scheduler().blocks().num_used(), 0);
  harness.ExpectAnswersAreRight();
}

INSTANTIATE_TEST_SUITE_P(Seeds, TrafficTest, testing::Combine(testing::Range(1, 41), testing::Bool()));

TEST(PressureTest, APoolOfThreeBlocksOverTheMinimumServesThousands) {
  // Each answer needs 10 blocks at its end, so two never fit: who runs beside the oldest is preempted again and again.
  SchedulerHarness harness({.num_blocks = 13, .block_size = 4, .max_num_seqs = 8, .max_num_batched_tokens = 16});
  Traffic traffic(1);
  constexpr int kRequests = 3000;
  for (RequestId id = 1; id <= kRequests; ++id) {
    const int32_t prompt_tokens = traffic.Uniform(1, 39);
    harness.Add({.id = id, .prompt = MakePrompt(prompt_tokens, id), .max_tokens = 41 - prompt_tokens});
    if (id % 100 == 0) harness.RunAll(100 * 41);
  }
  EXPECT_GT(harness.scheduler().stats().preemptions, 500);
  harness.ExpectAnswersAreRight();
}

}  // namespace
}  // namespace optserve
