// Ranks as threads on emulated GPUs that cannot write into each other's memory, and so add up by NCCL
// (emulated_nccl.cc, which this program is linked with): the same answers with graphs as without, and an end of all
// when one fails.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine/comm/nccl_communicator.h"
#include "engine/executor/executor.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/support/golden_models.h"
#include "tests/support/plan_runner.h"

namespace optserve {
namespace {

using std::chrono::steady_clock;

using Pairs = std::vector<std::pair<std::string, std::string>>;

// Settings of the emulated machine while they are in scope.
class Settings {
 public:
  explicit Settings(Pairs settings) : settings_(std::move(settings)) {
    for (const auto& [name, value] : settings_) setenv(name.c_str(), value.c_str(), 1);
  }
  ~Settings() {
    for (const auto& [name, value] : settings_) unsetenv(name.c_str());
  }
  Settings(const Settings&) = delete;

 private:
  const Pairs settings_;
};

Settings NoPeers(bool with_queues) {
  return Settings({{"OPTSERVE_EMULATOR_PEERS", "0"}, {"OPTSERVE_EMULATOR_QUEUES", with_queues ? "1" : "0"}});
}

struct Started {
  std::unique_ptr<Executor> executor;
  StartResult start;
};

absl::StatusOr<Started> Start(const std::string& model, int32_t ranks, DeviceChoice device, int32_t graph_batch,
                              bool deterministic_tp = false) {
  EngineConfig config;
  config.model_path = LoadGoldenModel(model).directory;
  config.device = device;
  config.tensor_parallel_size = ranks;
  config.max_num_seqs = 8;
  config.cuda_graph_batch = graph_batch;
  config.num_threads = ranks;
  config.deterministic_tp = deterministic_tp;
  absl::StatusOr<std::unique_ptr<Executor>> executor = MakeLocalExecutor(config);
  if (!executor.ok()) return executor.status();
  const absl::StatusOr<StartResult> start = (*executor)->Start(nullptr);
  if (!start.ok()) return start.status();
  return Started{*std::move(executor), *start};
}

const std::vector<std::vector<int32_t>> kPrompts = {
    {2, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}, {2, 31, 32}, {2, 41, 42, 43, 44, 45, 46, 47}};
constexpr int32_t kNewTokens = 4;

std::vector<RunResult> Answers(const Started& run) {
  return RunPrompts(*run.executor, run.start.kv, kPrompts, {.max_new_tokens = kNewTokens, .chunk = 6, .batched = true});
}

struct Case {
  const char* model;
  int32_t ranks;
  bool with_queues;
};
class CudaNccl : public testing::TestWithParam<Case> {};

TEST_P(CudaNccl, GivesWithGraphsWhatItGivesWithoutAndTheTokensOfTheCpu) {
  const auto& [model, ranks, with_queues] = GetParam();
  const Settings settings = NoPeers(with_queues);
  const absl::StatusOr<Started> cpu = Start(model, 1, DeviceChoice::kCpu, 0);
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  const std::vector<RunResult> expected = Answers(*cpu);
  std::vector<std::vector<RunResult>> results;
  for (const int32_t graph_batch : {0, 4}) {
    const absl::StatusOr<Started> cuda = Start(model, ranks, DeviceChoice::kCuda, graph_batch);
    ASSERT_TRUE(cuda.ok()) << cuda.status();
    const int64_t before = emulator::totals().graph_launches;
    results.push_back(Answers(*cuda));
    const int64_t launched = emulator::totals().graph_launches - before;
    EXPECT_TRUE(graph_batch == 0 ? launched == 0 : launched >= 3 * ranks) << launched;
  }
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    for (size_t t = 0; t < kNewTokens; ++t) {
      const TokenScore &plain = results[0][i].generated[t], &graph = results[1][i].generated[t];
      EXPECT_EQ(plain.id, expected[i].generated[t].id);
      EXPECT_EQ(plain.id, graph.id);
      EXPECT_EQ(plain.logprob, graph.logprob);
    }
    ASSERT_EQ(results[0][i].prompt_scores.size(), results[1][i].prompt_scores.size());
    for (size_t t = 0; t < results[0][i].prompt_scores.size(); ++t) {
      EXPECT_EQ(results[0][i].prompt_scores[t].logprob, results[1][i].prompt_scores[t].logprob);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CudaNccl,
                         testing::Values(Case{"preln_d64", 2, true}, Case{"noprefix_lmhead_bf16", 4, false},
                                         Case{"noprefix_lmhead_bf16", 4, true}),
                         [](const auto& info) {
                           return std::string(info.param.model) + "_tp" + std::to_string(info.param.ranks) +
                                  (info.param.with_queues ? "_queues" : "");
                         });

TEST(CudaNcclTest, HasNoStepQueuedBehindAnotherUnlessToldSo) {
  const Settings settings = NoPeers(/*with_queues=*/false);
  const absl::StatusOr<Started> run = Start("preln_d64", 2, DeviceChoice::kCuda, 0);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->start.max_steps_in_flight, 1);
}

TEST(CudaNcclTest, NamesItsVersionAndDoesNotSumAsATree) {
  EXPECT_EQ(NcclName(), "NCCL 2.21.5");
  const Settings settings = NoPeers(true);
  EXPECT_THAT(Start("preln_d64", 2, DeviceChoice::kCuda, 0, /*deterministic_tp=*/true).status().ToString(),
              testing::HasSubstr("--deterministic-tp is set, but ranks add up by NCCL 2.21.5, because emulated GPU 0 "
                                 "cannot write into the memory of emulated GPU 1, in an order of its own"));
}

// The other ranks' GPUs wait for the one that failed, with nothing to tell them; also in a graph, which NCCL does not
// let go of before it is destroyed.
TEST(CudaNcclTest, ARankThatFailsEndsAllAndIsNamed) {
  for (const int32_t graph_batch : {0, 4}) {
    const Settings settings(
        {{"OPTSERVE_EMULATOR_PEERS", "0"}, {"OPTSERVE_EMULATOR_QUEUES", "1"}, {"OPTSERVE_EMULATOR_NCCL_SILENT", "1"}});
    const absl::StatusOr<Started> run = Start("preln_d64", 2, DeviceChoice::kCuda, graph_batch);
    ASSERT_TRUE(run.ok()) << run.status();
    const Settings fault(Pairs{{"OPTSERVE_EMULATOR_REFUSED", graph_batch == 0 ? "AllGather" : "a captured step"}});
    const steady_clock::time_point begin = steady_clock::now();
    std::string error;
    try {
      Answers(*run);
    } catch (const std::exception& e) {
      error = e.what();
    }
    EXPECT_THAT(error, testing::MatchesRegex(".*rank 1: emulated GPU 1: .*: launch failed: error 701, .*"));
    EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(5));
  }
}

}  // namespace
}  // namespace optserve
