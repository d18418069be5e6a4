// A step that is queued behind one that has not run yet: its ids come from the device's memory. On emulated GPUs that
// run what is queued as early as a GPU may, and as late: when the host waits. There, nothing at all of a step has run
// when the next is queued, so that no id can have come by the host.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_emulator/emulator.h"
#include "tests/support/emulated_queues.h"
#include "tests/support/golden_models.h"
#include "tests/support/random_traffic.h"

namespace optserve {
namespace {

EngineConfig ConfigOf(int32_t ranks, int32_t steps_in_flight, int32_t graph_batch) {
  EngineConfig config{.model_path = LoadGoldenModel(ranks == 4 ? "noprefix_lmhead_bf16" : "preln_d80").directory};
  config.device = DeviceChoice::kCuda;
  config.tensor_parallel_size = ranks;
  config.max_num_seqs = 8;
  config.max_num_batched_tokens = 64;
  config.block_size = 4;
  config.kv_cache_bytes = int64_t{8} << 20;
  config.steps_in_flight = steps_in_flight;
  config.cuda_graph_batch = graph_batch;
  config.num_threads = ranks;
  return config;
}

struct Case {
  int32_t ranks;
  int32_t graph_batch;  // 0: ops are launched one by one
};
std::string NameOf(const testing::TestParamInfo<Case>& info) {
  return "tp" + std::to_string(info.param.ranks) + (info.param.graph_batch > 0 ? "_graphs" : "_launches");
}
class CudaStepsInFlight : public testing::TestWithParam<Case> {};

// Three sequences, whose rows change places from step to step. `known` has what was drawn so far, by sequence; else ids
// are those that the step before draws.
constexpr int32_t kSequences = 3, kSteps = 6;
int32_t PlaceOf(int32_t sequence, int32_t step) { return (sequence + step) % kSequences; }
StepPlan PlanOf(int32_t step, const std::vector<std::vector<int32_t>>* known) {
  StepPlan plan{.step = static_cast<uint64_t>(step) + 1, .num_decode = step > 0 ? kSequences : 0};
  for (int32_t place = 0; place < kSequences; ++place) {
    int32_t sequence = 0;
    while (PlaceOf(sequence, step) != place) ++sequence;
    const int32_t prompt = sequence + 2;  // tokens
    SequenceSlice slice{.sequence = static_cast<uint64_t>(sequence) + 1, .num_tokens = step > 0 ? 1 : prompt};
    slice.num_cached = step > 0 ? prompt + step - 1 : 0;
    for (int32_t i = 0; i < 4; ++i) slice.block_table.push_back(4 * sequence + i);
    slice.wants_sample = true;
    slice.sampling = {.temperature = sequence == 2 ? 0.0f : 1.5f, .seed = 7, .num_logprobs = 2};
    plan.slices.push_back(slice);
    for (int32_t i = 0; step == 0 && i < prompt; ++i) plan.token_ids.push_back(20 * sequence + i + 3);
    if (step > 0) {
      plan.token_ids.push_back(known != nullptr ? (*known)[sequence].back()
                                                : DrawnBySlice(PlaceOf(sequence, step - 1)));
    }
  }
  return plan;
}

std::vector<StepResult> OneAtATime(const Case& c) {
  TrafficModel model(ConfigOf(c.ranks, 1, c.graph_batch));
  EXPECT_EQ(model.max_steps_in_flight(), 1);
  std::vector<std::vector<int32_t>> known(kSequences);
  std::vector<StepResult> results;
  for (int32_t step = 0; step < kSteps; ++step) {
    results.push_back(*model.executor().Execute(PlanOf(step, &known)));
    for (int32_t i = 0; i < kSequences; ++i) known[i].push_back(results.back().sampled[PlaceOf(i, step)].token.id);
  }
  return results;
}

void ExpectSame(const StepResult& actual, const StepResult& expected) {
  EXPECT_EQ(actual.step, expected.step);
  ASSERT_EQ(actual.sampled.size(), expected.sampled.size());
  for (size_t i = 0; i < actual.sampled.size(); ++i) {
    const SampledToken &a = actual.sampled[i], &b = expected.sampled[i];
    EXPECT_EQ(a.slice, b.slice);
    EXPECT_EQ(a.token.id, b.token.id) << "slice " << i;
    EXPECT_EQ(a.token.logprob, b.token.logprob) << "slice " << i;
    ASSERT_EQ(a.token.top.size(), b.token.top.size());
    for (size_t k = 0; k < a.token.top.size(); ++k) EXPECT_EQ(a.token.top[k].logprob, b.token.top[k].logprob);
  }
}

TEST_P(CudaStepsInFlight, NoIdComesByTheHost) {
  const Case& c = GetParam();
  const std::vector<StepResult> expected = OneAtATime(c);
  for (const bool late : {false, true}) {
    SCOPED_TRACE(late ? "late" : "early");
    const EmulatedQueues queues(late);
    TrafficModel model(ConfigOf(c.ranks, 2, c.graph_batch));
    ASSERT_EQ(model.max_steps_in_flight(), 2);
    const emulator::Totals& totals = emulator::totals();
    const int64_t allocations = totals.allocations, copies = totals.copies, waits = totals.synchronisations;
    const int64_t graphs = totals.graph_launches;
    std::vector<StepPlan> plans;
    for (int32_t step = 0; step < kSteps; ++step) plans.push_back(PlanOf(step, nullptr));
    model.executor().Submit(plans[0]);
    for (int32_t step = 0; step < kSteps; ++step) {
      // The host has waited for no step but those that it has collected.
      if (step + 1 < kSteps) model.executor().Submit(plans[step + 1]);
      EXPECT_EQ(totals.synchronisations - waits, step * c.ranks);
      const absl::StatusOr<StepResult> result = model.executor().Collect();
      ASSERT_TRUE(result.ok()) << result.status();
      SCOPED_TRACE("step " + std::to_string(step + 1));
      ExpectSame(*result, expected[step]);
    }
    // A step is a copy of its inputs to every rank, a copy of what it drew from one, and a wait; a launch, if it is a
    // graph.
    EXPECT_EQ(totals.allocations - allocations, 0);
    EXPECT_EQ(totals.copies - copies, kSteps * (c.ranks + 1));
    EXPECT_EQ(totals.synchronisations - waits, kSteps * c.ranks);
    EXPECT_EQ(totals.graph_launches - graphs, c.graph_batch > 0 ? (kSteps - 1) * c.ranks : 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, CudaStepsInFlight,
                         testing::Values(Case{1, 4}, Case{2, 4}, Case{4, 4}, Case{1, 0}, Case{2, 0}), NameOf);

// The scheduler plans ahead: stops, several answers, penalties, scores, cancels, preemption, a prefix cache. Alone, one
// step after the other.
class CudaTrafficAhead : public testing::TestWithParam<Case> {};

TEST_P(CudaTrafficAhead, GivesWhatEachRequestGetsAlone) {
  constexpr float kTolerance = 5e-3f;
  const Case& c = GetParam();
  const EmulatedQueues queues(/*late=*/true);
  TrafficModel model(ConfigOf(c.ranks, 2, c.graph_batch)), alone(ConfigOf(c.ranks, 1, c.graph_batch));
  const Disturbances all = RunTraffic(model, alone, /*seed=*/34, /*num_requests=*/5, kTolerance);
  EXPECT_GT(all.preemptions, 0);
  EXPECT_GT(all.cache_hits, 0);
}

INSTANTIATE_TEST_SUITE_P(Ranks, CudaTrafficAhead, testing::Values(Case{1, 4}, Case{2, 4}, Case{4, 4}), NameOf);

// A sequence whose row was not finite is computed once more, for nothing; the others notice nothing of it.
TEST(CudaStepsInFlightTest, ARowThatIsNotFiniteDrawsNobodysId) {
  const EmulatedQueues queues(/*late=*/true);
  TrafficModel model(ConfigOf(1, 2, 4));
  const std::vector<StepResult> expected = OneAtATime({1, 4});
  std::vector<StepPlan> plans;
  for (int32_t step = 0; step < 3; ++step) plans.push_back(PlanOf(step, nullptr));
  // -Inf everywhere is a row that nothing may be chosen from.
  SamplingParams& sampling = plans[0].slices[PlaceOf(0, 0)].sampling;
  for (int32_t id = 0; id < model.info().vocab_size; ++id) plans[0].slices[PlaceOf(0, 0)].suppressed.push_back(id);
  sampling.temperature = 0.0f;
  model.executor().Submit(plans[0]);
  for (int32_t step = 0; step < 3; ++step) {
    if (step + 1 < 3) model.executor().Submit(plans[step + 1]);
    const absl::StatusOr<StepResult> result = model.executor().Collect();
    ASSERT_TRUE(result.ok()) << result.status();
    for (int32_t i = 0; i < kSequences; ++i) {
      const auto place = static_cast<size_t>(PlaceOf(i, step));
      EXPECT_EQ(result->sampled[place].finite, i != 0 || step > 0);
      if (i != 0) {
        EXPECT_EQ(result->sampled[place].token.id, expected[step].sampled[place].token.id);
        EXPECT_EQ(result->sampled[place].token.logprob, expected[step].sampled[place].token.logprob);
      }
    }
  }
}

TEST(CudaStepsInFlightTest, AreTwoOnGpusUnlessTheConfigurationSaysSo) {
  EXPECT_EQ(TrafficModel(ConfigOf(1, 0, 0)).max_steps_in_flight(), 2);
  EXPECT_EQ(TrafficModel(ConfigOf(2, 0, 0)).max_steps_in_flight(), 2);
  EXPECT_EQ(TrafficModel(ConfigOf(2, 1, 0)).max_steps_in_flight(), 1);
  EngineConfig cpu = ConfigOf(2, 0, 0);
  cpu.device = DeviceChoice::kCpu;
  EXPECT_EQ(TrafficModel(cpu).max_steps_in_flight(), 1);
}

// What a device finds wrong with a step comes when that is collected, and ends the one behind it too.
TEST(CudaStepsInFlightTest, AFailedStepEndsTheOneBehindIt) {
  const EmulatedQueues queues(/*late=*/true);
  TrafficModel model(ConfigOf(2, 2, 4));
  const std::vector<StepPlan> plans = {PlanOf(0, nullptr), PlanOf(1, nullptr)};
  model.executor().Submit(plans[0]);
  model.executor().Submit(plans[1]);
  setenv("OPTSERVE_EMULATOR_FAULT", "1", 1);
  const absl::Status first = model.executor().Collect().status();
  unsetenv("OPTSERVE_EMULATOR_FAULT");
  EXPECT_THAT(first.ToString(), testing::HasSubstr("rank 1: emulated GPU 1: one of"));
  EXPECT_THAT(first.ToString(), testing::HasSubstr("waiting failed: error 700"));
  EXPECT_EQ(model.executor().Collect().status(), first);
}

}  // namespace
}  // namespace optserve
