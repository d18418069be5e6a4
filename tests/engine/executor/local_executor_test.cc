#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/executor/executor.h"
#include "tests/support/golden_models.h"
#include "tests/support/plan_runner.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

using testing::HasSubstr;

std::string ModelPath(const std::string& name) { return TestDataPath("golden/models/" + name).string(); }

absl::StatusOr<StartResult> Start(const EngineConfig& config, std::unique_ptr<Executor>* out = nullptr) {
  absl::StatusOr<std::unique_ptr<Executor>> executor = MakeLocalExecutor(config);
  if (!executor.ok()) return executor.status();
  absl::StatusOr<StartResult> start = (*executor)->Start(nullptr);
  if (out != nullptr) *out = *std::move(executor);
  return start;
}

TEST(LocalExecutorTest, ReportsTheModel) {
  const EngineConfig config{.model_path = ModelPath("preln_d64"), .max_num_seqs = 3, .num_threads = 1};
  const absl::StatusOr<StartResult> start = Start(config);
  ASSERT_TRUE(start.ok()) << start.status();
  EXPECT_EQ(start->model.max_num_seqs, 3);
  EXPECT_EQ(start->model.kv_tokens, int64_t{start->kv.num_blocks} * start->kv.block_size);
  EXPECT_GE(start->model.kv_tokens, 3 * start->model.max_model_len);
  const auto file_bytes =
      static_cast<int64_t>(std::filesystem::file_size(ModelPath("preln_d64") + "/model.safetensors"));
  EXPECT_LT(start->model.weight_bytes, file_bytes);
  EXPECT_GT(start->model.weight_bytes, file_bytes - 10'000);  // all but the header
  EXPECT_EQ(start->model.num_parameters, start->model.weight_bytes / 2);
}

TEST(LocalExecutorTest, AStepsPhasesSumToItAndItsDemandIsThatOfItsTokens) {
  for (const int32_t ranks : {1, 2}) {
    const EngineConfig config{
        .model_path = ModelPath("preln_d64"), .tensor_parallel_size = ranks, .max_num_seqs = 3, .num_threads = ranks};
    std::unique_ptr<Executor> executor;
    const absl::StatusOr<StartResult> start = Start(config, &executor);
    ASSERT_TRUE(start.ok()) << start.status();
    StepPlan plan{.step = 1};
    plan.slices.push_back({.num_tokens = 12, .block_table = {0}, .wants_sample = true});
    plan.token_ids.assign(12, 5);
    StepTimes sum;
    StepResult result;
    double wall_ns = 0;
    for (int repetition = 0; repetition < 50; ++repetition) {
      const auto begin = std::chrono::steady_clock::now();
      result = executor->Execute(plan).value();
      wall_ns += std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count();
      for (size_t i = 0; i < kNumStepPhases; ++i) sum.ns[i] += result.times.ns[i];
    }
    EXPECT_LE(static_cast<double>(sum.total_ns()), wall_ns);
    // The rest is that of waking the ranks' threads.
    EXPECT_GE(static_cast<double>(sum.total_ns()), ranks == 1 ? 0.8 * wall_ns : 0.0);
    for (const StepPhase phase : {StepPhase::kWeights, StepPhase::kAttention, StepPhase::kKernels, StepPhase::kSampling,
                                  StepPhase::kGaps, StepPhase::kHost}) {
      EXPECT_GT(sum[phase], 0) << kStepPhaseNames[static_cast<size_t>(phase)] << ", ranks: " << ranks;
    }
    EXPECT_EQ(sum[StepPhase::kAllReduce] > 0, ranks > 1);
    EXPECT_EQ(sum[StepPhase::kDevice], 0);
    // All weights but positions, norms and biases; the head counts as many flops as it has weights for one token only.
    const auto weight_bytes = static_cast<double>(start->model.weight_bytes);
    EXPECT_LT(result.demand.weight_bytes, weight_bytes);
    EXPECT_GT(result.demand.weight_bytes, 0.8 * weight_bytes);
    EXPECT_GT(result.demand.weight_flops, result.demand.weight_bytes);
    EXPECT_LT(result.demand.weight_flops, 12 * result.demand.weight_bytes);
    EXPECT_GT(result.demand.kv_bytes, 0);
    EXPECT_GT(result.demand.attention_flops, 0);
  }
}

TEST(LocalExecutorTest, RefusesWhatTheModelCannotDo) {
  const auto error = [](EngineConfig config) {
    config.model_path = ModelPath("preln_d64");
    config.num_threads = 1;
    return std::string(Start(config).status().message());
  };
  EXPECT_THAT(error({.tensor_parallel_size = 3}), HasSubstr("--tensor-parallel-size is 3"));
  EXPECT_THAT(error({.max_model_len = 100'000}), HasSubstr("--max-model-len is 100000"));
  EXPECT_THAT(error({.kv_cache_bytes = 1}), HasSubstr("--kv-cache-memory is 1 "));
  EXPECT_THAT(error({.dtype = DTypeChoice::kInt8}), HasSubstr("--dtype is int8"));
  EXPECT_EQ(error({.dtype = DTypeChoice::kFloat16}), "");
  EXPECT_EQ(error({.dtype = DTypeChoice::kFloat32}), "");
  EXPECT_NE(error({.device = DeviceChoice::kCuda}), "");
  EXPECT_TRUE(absl::IsNotFound(Start({.model_path = "/nowhere/at/all"}).status()));
}

TEST(LocalExecutorTest, DoesNotRoundWeights) {
  const absl::Status status =
      Start({.model_path = ModelPath("galactica_f32"), .dtype = DTypeChoice::kFloat16, .num_threads = 1}).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("optserve convert"));
}

TEST(LocalExecutorTest, ReportsProgressUpToAllBytes) {
  std::vector<std::pair<int64_t, int64_t>> reports;
  auto executor = MakeLocalExecutor({.model_path = ModelPath("preln_d64"), .num_threads = 1});
  const absl::StatusOr<StartResult> start =
      (*executor)->Start([&](int64_t done, int64_t total) { reports.emplace_back(done, total); });
  ASSERT_TRUE(start.ok());
  ASSERT_FALSE(reports.empty());
  EXPECT_EQ(reports.back(), std::pair(start->model.weight_bytes, start->model.weight_bytes));
  for (size_t i = 1; i < reports.size(); ++i) EXPECT_GE(reports[i].first, reports[i - 1].first);
}

// A forked choice writes to a copy of the last block that it shared.
TEST(LocalExecutorTest, CopiesBlocksBeforeTheStep) {
  std::unique_ptr<Executor> executor;
  ASSERT_TRUE(Start({.model_path = ModelPath("preln_d64"), .num_threads = 1}, &executor).ok());
  const std::vector<int32_t> prompt = {2, 5, 6, 7, 8};
  StepPlan prefill{.step = 1, .token_ids = prompt};
  prefill.slices = {{.sequence = 1, .num_tokens = 5, .block_table = {3}, .wants_sample = true}};
  prefill.slices[0].sampling.temperature = 0.0f;
  const int32_t token = executor->Execute(prefill)->sampled[0].token.id;

  const auto decode = [&](int32_t block, std::vector<BlockCopy> copies) {
    StepPlan plan{.step = 2, .num_decode = 1, .token_ids = {token}, .block_copies = std::move(copies)};
    plan.slices = {{.sequence = 1, .num_tokens = 1, .num_cached = 5, .block_table = {block}, .wants_sample = true}};
    plan.slices[0].sampling.temperature = 0.0f;
    return executor->Execute(plan)->sampled[0].token;
  };
  const TokenScore copied = decode(9, {{.src = 3, .dst = 9}});
  const TokenScore original = decode(3, {});
  EXPECT_EQ(copied.id, original.id);
  EXPECT_EQ(copied.logprob, original.logprob);
  const float of_zeros = decode(11, {}).logprob;
  EXPECT_NE(of_zeros, original.logprob);  // an empty block says something else

  StepPlan zeroed{.step = 3, .num_decode = 1, .token_ids = {token}, .zeroed_blocks = {9}};
  zeroed.slices = {{.sequence = 1, .num_tokens = 1, .num_cached = 5, .block_table = {9}, .wants_sample = true}};
  zeroed.slices[0].sampling.temperature = 0.0f;
  EXPECT_EQ(executor->Execute(zeroed)->sampled[0].token.logprob, of_zeros);
}

TEST(LocalExecutorTest, MoreRowsThanATileOfLogits) {
  std::unique_ptr<Executor> executor;
  const absl::StatusOr<StartResult> start =
      Start({.model_path = ModelPath("preln_d64"), .max_num_seqs = 150, .num_threads = 1}, &executor);
  ASSERT_TRUE(start.ok());
  std::vector<std::vector<int32_t>> prompts;
  for (int32_t i = 0; i < 150; ++i) prompts.push_back({2, i, i + 1});
  const std::vector<RunResult> together =
      RunPrompts(*executor, start->kv, prompts, {.max_new_tokens = 2, .batched = true});
  for (const int i : {0, 63, 64, 127, 128, 149}) {
    const RunResult alone = RunPrompts(*executor, start->kv, {prompts[i]}, {.max_new_tokens = 2})[0];
    EXPECT_EQ(together[i].generated[1].id, alone.generated[1].id);
    EXPECT_EQ(together[i].generated[1].logprob, alone.generated[1].logprob);
    EXPECT_EQ(together[i].prompt_scores[1].logprob, alone.prompt_scores[1].logprob);
  }
}

// A model with one weight that is not a number: the rows that meet it say so, and nothing crashes.
TEST(LocalExecutorTest, RowsThatAreNotFiniteSaySo) {
  const TempDir folder;
  folder.Write("config.json", ReadTestData("golden/corrupt/ok_plain.config.json"));
  folder.Write("model.safetensors", ReadTestData("golden/corrupt/st_nan.model.safetensors"));
  std::unique_ptr<Executor> executor;
  ASSERT_TRUE(Start({.model_path = folder.path().string(), .num_threads = 1}, &executor).ok());
  StepPlan plan{.step = 1, .token_ids = {2, 7, 11}};
  plan.slices = {{.sequence = 1, .num_tokens = 3, .block_table = {0}, .wants_sample = true}};
  plan.slices[0].score_targets = {7, 11};
  const absl::StatusOr<StepResult> result = executor->Execute(plan);
  ASSERT_TRUE(result.ok());
  EXPECT_FALSE(result->sampled[0].finite);
  EXPECT_FALSE(result->scored[0].finite);
}

TEST(LocalExecutorTest, MoreRanksThanCores) {
  const GoldenModel golden = LoadGoldenModel("sharded_safetensors");
  std::unique_ptr<Executor> executor;
  const absl::StatusOr<StartResult> start =
      Start({.model_path = golden.directory, .tensor_parallel_size = 4, .num_threads = 1}, &executor);
  ASSERT_TRUE(start.ok()) << start.status();
  const RunResult result = RunPrompts(*executor, start->kv, {golden.prompts[2].ids}, {.max_new_tokens = 8})[0];
  for (size_t i = 0; i < result.generated.size(); ++i) {
    EXPECT_EQ(result.generated[i].id, golden.prompts[2].greedy_ids[i]);
  }
}

}  // namespace
}  // namespace optserve
