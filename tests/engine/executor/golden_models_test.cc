// Every golden model, run by plans written by hand, says what Hugging Face transformers says: at every tensor-parallel
// size that divides it, alone and in a batch, in one step and in chunks.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "engine/executor/executor.h"
#include "engine/model/opt_config.h"
#include "tests/support/golden_models.h"
#include "tests/support/plan_runner.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

struct Started {
  std::unique_ptr<Executor> executor;
  StartResult start;
};

Started StartModel(const std::string& directory, int32_t tensor_parallel_size, int32_t num_threads = 0,
                   bool deterministic_tp = false) {
  // One thread a rank, unless told: the models are too small for more to help.
  const EngineConfig config{.model_path = directory,
                            .tensor_parallel_size = tensor_parallel_size,
                            .max_num_seqs = 16,
                            .deterministic_tp = deterministic_tp,
                            .num_threads = num_threads > 0 ? num_threads : tensor_parallel_size};
  absl::StatusOr<std::unique_ptr<Executor>> executor = MakeLocalExecutor(config);
  if (!executor.ok()) throw std::runtime_error(executor.status().ToString());
  const absl::StatusOr<StartResult> start = (*executor)->Start(nullptr);
  if (!start.ok()) throw std::runtime_error(start.status().ToString());
  return {*std::move(executor), *start};
}

std::vector<std::vector<int32_t>> Prompts(const GoldenModel& model) {
  std::vector<std::vector<int32_t>> prompts;
  for (const GoldenPrompt& prompt : model.prompts) prompts.push_back(prompt.ids);
  return prompts;
}

// Ids of almost equal log probability may swap, and the last of the five may be another: compared by value.
void ExpectTop(const GoldenTop& expected, const std::vector<TokenLogprob>& actual) {
  ASSERT_EQ(actual.size(), expected.ids.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_NEAR(actual[i].logprob, expected.logprobs[i], kGoldenTolerance);
    const auto same = std::find(expected.ids.begin(), expected.ids.end(), actual[i].id);
    if (same != expected.ids.end()) {
      EXPECT_NEAR(actual[i].logprob, expected.logprobs[same - expected.ids.begin()], kGoldenTolerance);
    }
  }
}

void ExpectGolden(const GoldenPrompt& expected, const RunResult& actual) {
  SCOPED_TRACE(expected.name);
  ASSERT_EQ(actual.prompt_scores.size(), expected.token_logprobs.size());
  for (size_t i = 0; i < actual.prompt_scores.size(); ++i) {
    EXPECT_NEAR(actual.prompt_scores[i].logprob, expected.token_logprobs[i], kGoldenTolerance) << "token " << i + 1;
    ExpectTop(expected.top5[i], actual.prompt_scores[i].top);
  }
  ASSERT_EQ(actual.generated.size(), expected.greedy_ids.size());
  ExpectTop(expected.top5.back(), actual.generated[0].top);
  for (size_t i = 0; i < actual.generated.size(); ++i) {
    EXPECT_EQ(actual.generated[i].id, expected.greedy_ids[i]) << "generated token " << i;
    EXPECT_NEAR(actual.generated[i].logprob, expected.greedy_logprobs[i], kGoldenTolerance) << "generated token " << i;
  }
}

void ExpectSameBits(const RunResult& a, const RunResult& b) {
  const auto same = [](const std::vector<TokenScore>& x, const std::vector<TokenScore>& y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end(),
                      [](const TokenScore& s, const TokenScore& t) { return s.id == t.id && s.logprob == t.logprob; });
  };
  EXPECT_TRUE(same(a.prompt_scores, b.prompt_scores));
  EXPECT_TRUE(same(a.generated, b.generated));
}

class GoldenModels : public testing::TestWithParam<std::tuple<std::string, int>> {};

TEST_P(GoldenModels, MatchesTransformers) {
  const auto& [name, size] = GetParam();
  const GoldenModel model = LoadGoldenModel(name);
  const absl::StatusOr<OptConfig> config = LoadOptConfig(model.directory);
  ASSERT_TRUE(config.ok()) << config.status();
  if (!CheckTensorParallelSize(*config, size).ok()) {
    const auto executor = MakeLocalExecutor({.model_path = model.directory, .tensor_parallel_size = size});
    ASSERT_TRUE(executor.ok());
    EXPECT_THAT((*executor)->Start(nullptr).status().ToString(), testing::HasSubstr("sizes that do: 1"));
    return;
  }
  const Started run = StartModel(model.directory, size);
  EXPECT_EQ(run.start.model.vocab_size, model.vocab_size);
  EXPECT_EQ(run.start.model.eos_token_ids, model.eos_token_ids);

  const RunOptions alone{.max_new_tokens = 24};
  const std::vector<RunResult> results = RunPrompts(*run.executor, run.start.kv, Prompts(model), alone);
  for (size_t i = 0; i < results.size(); ++i) ExpectGolden(model.prompts[i], results[i]);

  // Rows and chunks that are computed together change no bit.
  RunOptions batched = alone;
  batched.batched = true;
  RunOptions chunked = batched;
  chunked.chunk = 7;
  for (const RunOptions& options : {batched, chunked}) {
    const std::vector<RunResult> others = RunPrompts(*run.executor, run.start.kv, Prompts(model), options);
    for (size_t i = 0; i < results.size(); ++i) {
      SCOPED_TRACE(model.prompts[i].name);
      ExpectSameBits(results[i], others[i]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, GoldenModels,
                         testing::Combine(testing::ValuesIn(GoldenModelNames({"safetensors", "bin", "pt"})),
                                          testing::Values(1, 2, 4)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_tp" + std::to_string(std::get<1>(info.param));
                         });

class DeterministicTp : public testing::TestWithParam<std::string> {};

TEST_P(DeterministicTp, TheNumberOfRanksChangesNoBit) {
  const GoldenModel model = LoadGoldenModel(GetParam());
  const absl::StatusOr<OptConfig> config = LoadOptConfig(model.directory);
  ASSERT_TRUE(config.ok()) << config.status();
  const RunOptions options{.max_new_tokens = 24, .chunk = 11, .batched = true};
  std::vector<RunResult> on_one;
  for (const int size : {1, 2, 4}) {
    SCOPED_TRACE(size);
    if (!CheckTensorParallelSize(*config, size).ok()) continue;
    ASSERT_TRUE(CheckDeterministicTensorParallelSize(*config, size).ok());
    const Started run = StartModel(model.directory, size, 0, /*deterministic_tp=*/true);
    const std::vector<RunResult> results = RunPrompts(*run.executor, run.start.kv, Prompts(model), options);
    if (size == 1) on_one = results;
    for (size_t i = 0; i < results.size(); ++i) {
      ExpectGolden(model.prompts[i], results[i]);
      ExpectSameBits(on_one[i], results[i]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, DeterministicTp, testing::ValuesIn(GoldenModelNames({"safetensors", "bin", "pt"})),
                         [](const auto& info) { return info.param; });

TEST(DeterministicTpTest, RanksThatDoNotDivideTheTreeAreRefused) {
  OptConfig config;  // OPT-125M: 12 heads
  EXPECT_EQ(NumTreeSlices(config), 4);
  EXPECT_TRUE(CheckDeterministicTensorParallelSize(config, 4).ok());
  EXPECT_TRUE(CheckTensorParallelSize(config, 3).ok());
  EXPECT_THAT(CheckDeterministicTensorParallelSize(config, 3).ToString(), testing::HasSubstr("4 slices"));
}

// At four ranks the model's sums differ without the tree: the test above can fail.
TEST(DeterministicTpTest, WithoutItBitsDoDependOnRanks) {
  const GoldenModel model = LoadGoldenModel("preln_d64");
  const RunOptions options{.max_new_tokens = 4};
  const Started one = StartModel(model.directory, 1), two = StartModel(model.directory, 2);
  const std::vector<RunResult> a = RunPrompts(*one.executor, one.start.kv, Prompts(model), options);
  const std::vector<RunResult> b = RunPrompts(*two.executor, two.start.kv, Prompts(model), options);
  bool differ = false;
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t t = 0; t < a[i].prompt_scores.size(); ++t) {
      differ = differ || a[i].prompt_scores[t].logprob != b[i].prompt_scores[t].logprob;
    }
  }
  EXPECT_TRUE(differ);
}

TEST(GoldenModelTest, ThreadsChangeNoBit) {
  const GoldenModel model = LoadGoldenModel("preln_d64");
  const RunOptions options{.max_new_tokens = 4, .batched = true};
  const Started one = StartModel(model.directory, 1, 1), three = StartModel(model.directory, 1, 3);
  const std::vector<RunResult> a = RunPrompts(*one.executor, one.start.kv, Prompts(model), options);
  const std::vector<RunResult> b = RunPrompts(*three.executor, three.start.kv, Prompts(model), options);
  for (size_t i = 0; i < a.size(); ++i) ExpectSameBits(a[i], b[i]);
}

// The model of the quickstart, against transformers' own run of it.
TEST(DemoModelTest, MatchesTransformers) {
  const auto reference = nlohmann::json::parse(ReadTestData("golden/demo-model/reference.json"));
  const std::string directory = SourcePath("deploy/demo-model").string();
  for (const int size : {1, 2}) {
    SCOPED_TRACE(size);
    const Started run = StartModel(directory, size);
    for (const auto& example : reference["cases"]) {
      const auto prompt = example["prompt_ids"].get<std::vector<int32_t>>();
      const auto ids = example["ids"].get<std::vector<int32_t>>();
      const RunResult result =
          RunPrompts(*run.executor, run.start.kv, {prompt}, {.max_new_tokens = static_cast<int32_t>(ids.size())})[0];
      for (size_t i = 0; i < result.prompt_scores.size(); ++i) {
        EXPECT_NEAR(result.prompt_scores[i].logprob, example["prompt_logprobs"][i], kGoldenTolerance);
      }
      for (size_t i = 0; i < ids.size(); ++i) {
        EXPECT_EQ(result.generated[i].id, ids[i]);
        EXPECT_NEAR(result.generated[i].logprob, example["logprobs"][i], kGoldenTolerance);
      }
    }
  }
}

}  // namespace
}  // namespace optserve
