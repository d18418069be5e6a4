// Decode steps as CUDA graphs on emulated GPUs: the same answers as without, one launch a step, nothing allocated.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/executor/executor.h"
#include "engine/model/load_config.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/support/expect_same.h"
#include "tests/support/golden_models.h"
#include "tests/support/plan_runner.h"

namespace optserve {
namespace {

struct Started {
  std::unique_ptr<Executor> executor;
  StartResult start;
};

constexpr int32_t kGraphBatch = 4;

Started Start(const std::string& model, int32_t ranks, int32_t graph_batch) {
  EngineConfig config;
  config.model_path = LoadGoldenModel(model).directory;
  config.device = DeviceChoice::kCuda;
  config.tensor_parallel_size = ranks;
  config.max_num_seqs = 8;
  config.cuda_graph_batch = graph_batch;
  config.num_threads = ranks;
  absl::StatusOr<std::unique_ptr<Executor>> executor = MakeLocalExecutor(config);
  if (!executor.ok()) throw std::runtime_error(executor.status().ToString());
  const absl::StatusOr<StartResult> start = (*executor)->Start(nullptr);
  if (!start.ok()) throw std::runtime_error(start.status().ToString());
  return {*std::move(executor), *start};
}

// What the devices were asked for during `call`.
struct Work {
  int64_t launches, graph_launches, allocations, copies, synchronisations;
};
template <typename F>
Work WorkOf(F call) {
  const emulator::Totals& totals = emulator::totals();
  const auto now = [&] {
    return Work{totals.launches, totals.graph_launches, totals.allocations, totals.copies, totals.synchronisations};
  };
  const Work before = now();
  call();
  const Work after = now();
  return {after.launches - before.launches, after.graph_launches - before.graph_launches,
          after.allocations - before.allocations, after.copies - before.copies,
          after.synchronisations - before.synchronisations};
}

struct Case {
  const char* model;
  int32_t ranks;
};
class CudaGraphs : public testing::TestWithParam<Case> {};

// Three sequences of different lengths, whose prompts end at different steps: batches of 1, 2 and 3, the last of which
// has a row of nobody, over the edge of a block, with prefills in between.
TEST_P(CudaGraphs, GiveWhatSingleLaunchesGive) {
  const std::vector<std::vector<int32_t>> prompts = {
      {2, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}, {2, 31, 32}, {2, 41, 42, 43, 44, 45, 46, 47}};
  const RunOptions options{.max_new_tokens = 4, .chunk = 6, .batched = true};
  std::vector<std::vector<RunResult>> results;
  std::vector<Work> work;
  for (const int32_t graph_batch : {0, kGraphBatch}) {
    const Started run = Start(GetParam().model, GetParam().ranks, graph_batch);
    work.push_back(WorkOf([&] { results.push_back(RunPrompts(*run.executor, run.start.kv, prompts, options)); }));
  }
  EXPECT_EQ(work[0].graph_launches, 0);
  EXPECT_GE(work[1].graph_launches, 3 * GetParam().ranks);
  EXPECT_EQ(work[0].allocations + work[1].allocations, 0);
  for (size_t i = 0; i < prompts.size(); ++i) {
    ASSERT_EQ(results[0][i].generated.size(), 4u);
    ASSERT_EQ(results[1][i].generated.size(), 4u);
    for (size_t t = 0; t < 4; ++t) ExpectSame(results[0][i].generated[t], results[1][i].generated[t]);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CudaGraphs,
                         testing::Values(Case{"preln_d64", 1}, Case{"preln_d80", 2}, Case{"noprefix_lmhead_bf16", 4},
                                         Case{"postln_proj", 2}),
                         [](const auto& info) {
                           return std::string(info.param.model) + "_tp" + std::to_string(info.param.ranks);
                         });

// A decode of sequence i at position `cached`, all of whose blocks are its own.
SequenceSlice Decode(int32_t i, int32_t cached) {
  SequenceSlice slice{.sequence = static_cast<uint64_t>(i) + 1,
                      .num_tokens = 1,
                      .num_cached = cached,
                      .block_table = {2 * i, 2 * i + 1},
                      .wants_sample = true};
  slice.sampling.num_logprobs = 3;
  return slice;
}

// What the sampler is told changes from step to step, in number and kind.
TEST(CudaGraphsTest, DrawByTheSettingsOfTheirStep) {
  std::vector<StepPlan> plans;
  const auto add = [&](const std::vector<SequenceSlice>& slices) {
    StepPlan plan{.step = plans.size() + 1, .num_decode = static_cast<int32_t>(slices.size()), .slices = slices};
    for (size_t i = 0; i < slices.size(); ++i) plan.token_ids.push_back(static_cast<int32_t>(20 + i + plans.size()));
    plans.push_back(plan);
  };
  add({Decode(0, 0), Decode(1, 0), Decode(2, 0)});
  SequenceSlice biased = Decode(0, 1), penalised = Decode(1, 1), banned = Decode(2, 1);
  biased.sampling.logit_bias = {{7, 100.0f}, {8, 3.0f}};
  biased.sampling.temperature = 0.0f;
  penalised.sampling.frequency_penalty = 1.5f;
  penalised.sampling.repetition_penalty = 1.3f;
  penalised.sampling.seed = 5;
  penalised.seen = {{21, 1}, {22, 3}, {23, 0}};
  banned.sampling.temperature = 0.0f;
  banned.suppressed = {1, 2, 3};
  add({biased, penalised, banned});
  banned = Decode(2, 2);
  banned.suppressed = {4};
  banned.sampling.top_k = 3;
  penalised.num_cached = 2;
  penalised.seen.push_back({30, 1});
  add({penalised, banned});  // other rows than before
  add({Decode(0, 2), Decode(1, 3), Decode(2, 3)});

  const Started plain = Start("preln_d64", 1, 0), graphs = Start("preln_d64", 1, kGraphBatch);
  for (const StepPlan& plan : plans) {
    const StepResult expected = *plain.executor->Execute(plan);
    StepResult result;
    const Work work = WorkOf([&] { result = *graphs.executor->Execute(plan); });
    EXPECT_EQ(work.graph_launches, 1);
    EXPECT_EQ(work.launches, 0);
    ASSERT_EQ(result.sampled.size(), plan.slices.size());
    for (size_t i = 0; i < result.sampled.size(); ++i) {
      EXPECT_EQ(result.sampled[i].slice, expected.sampled[i].slice);
      ExpectSame(result.sampled[i].token, expected.sampled[i].token);
    }
    if (plan.step == 2) {
      EXPECT_EQ(result.sampled[0].token.id, 7);
    }
  }
}

// Rows of nobody leave every block alone, also the first, which their empty tables name.
TEST(CudaGraphsTest, RowsOfNobodyTouchNothing) {
  const Started plain = Start("preln_d64", 1, 0), graphs = Start("preln_d64", 1, kGraphBatch);
  const auto plan = [](uint64_t step, const SequenceSlice& slice) {
    return StepPlan{.step = step, .num_decode = 1, .slices = {slice}, .token_ids = {40}};
  };
  for (const Started* run : {&plain, &graphs}) {
    ASSERT_TRUE(run->executor->Execute(plan(1, Decode(0, 0))).ok());  // block 0
    StepPlan three = plan(2, Decode(1, 0));                           // a batch of three, in four rows
    three.slices = {Decode(1, 0), Decode(2, 0), Decode(3, 0)};
    three.num_decode = 3;
    three.token_ids = {41, 42, 43};
    ASSERT_TRUE(run->executor->Execute(three).ok());
  }
  ExpectSame((*graphs.executor->Execute(plan(3, Decode(0, 1)))).sampled[0].token,
             (*plain.executor->Execute(plan(3, Decode(0, 1)))).sampled[0].token);
}

TEST(CudaGraphsTest, AStepIsOneLaunchAndOneCopyEachWay) {
  const Started run = Start("preln_d64", 1, kGraphBatch);
  for (int32_t step = 0; step < 20; ++step) {  // over the edge of a block
    const StepPlan plan{.step = static_cast<uint64_t>(step) + 1,
                        .num_decode = 1,
                        .slices = {Decode(0, step)},
                        .token_ids = {30 + step}};
    const Work work = WorkOf([&] { ASSERT_TRUE(run.executor->Execute(plan).ok()); });
    EXPECT_EQ(work.graph_launches, 1);
    EXPECT_EQ(work.launches, 0);
    EXPECT_EQ(work.allocations, 0);
    EXPECT_EQ(work.copies, 2);
    EXPECT_LE(work.synchronisations, 2);
  }
}

// Larger batches than planned, prompts and scores are launched op by op.
TEST(CudaGraphsTest, OtherStepsAreLaunchedOpByOp) {
  const Started run = Start("preln_d64", 1, 2);
  StepPlan large{
      .step = 1, .num_decode = 3, .slices = {Decode(0, 0), Decode(1, 0), Decode(2, 0)}, .token_ids = {30, 31, 32}};
  StepPlan prompt{.step = 2, .slices = {Decode(0, 0)}, .token_ids = {33, 34}};
  prompt.slices[0].num_tokens = 2;
  for (const StepPlan& plan : {large, prompt}) {
    const Work work = WorkOf([&] { ASSERT_TRUE(run.executor->Execute(plan).ok()); });
    EXPECT_EQ(work.graph_launches, 0);
    EXPECT_GT(work.launches, 0);
    EXPECT_EQ(work.allocations, 0);
  }
}

// A layer has four products of weights, q, k and v being one; at most five launches come to them. What repeats once a
// layer does so at one distance: the layer's launches.
TEST(CudaGraphsTest, ALayerHasAtMostFiveLaunchesBesidesItsProducts) {
  for (const char* name : {"preln_d64", "postln_proj"}) {
    SCOPED_TRACE(name);
    const int32_t num_layers = static_cast<int32_t>((*LoadOptConfig(LoadGoldenModel(name).directory)).num_layers);
    ASSERT_GE(num_layers, 2);
    const Started run = Start(name, 1, 0);
    std::vector<const void*> log;
    emulator::totals().log = &log;
    const bool ok =
        run.executor->Execute({.step = 1, .num_decode = 1, .slices = {Decode(0, 0)}, .token_ids = {30}}).ok();
    emulator::totals().log = nullptr;
    ASSERT_TRUE(ok);
    std::map<const void*, std::vector<size_t>> places;
    for (size_t i = 0; i < log.size(); ++i) places[log[i]].push_back(i);
    std::set<size_t> distances;
    for (const auto& [kernel, at] : places) {
      if (static_cast<int32_t>(at.size()) != num_layers) continue;
      for (size_t i = 1; i < at.size(); ++i) distances.insert(at[i] - at[i - 1]);
    }
    ASSERT_EQ(distances.size(), 1u);
    EXPECT_LE(*distances.begin(), 4u + 5u);
  }
}

}  // namespace
}  // namespace optserve
