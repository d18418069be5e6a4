// Models on the CUDA backend, run by hand-made plans: the same greedy tokens as on the CPU, on 1, 2 and 4 ranks, on
// both generations of attention kernels; and what is refused. On emulated GPUs, or with OPTSERVE_ON_GPU on real ones.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/executor/executor.h"
#include "kernels/common/cuda_device.h"
#include "tests/support/golden_models.h"
#include "tests/support/plan_runner.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

// A setting of the emulated machine while it is in scope.
class Setting {
 public:
  Setting(const char* name, const std::string& value) : name_(name) { setenv(name, value.c_str(), 1); }
  ~Setting() { unsetenv(name_); }
  Setting(const Setting&) = delete;

 private:
  const char* name_;
};

struct Started {
  std::unique_ptr<Executor> executor;
  StartResult start;
};

absl::StatusOr<Started> Start(const std::string& directory, int32_t ranks, DeviceChoice device,
                              int32_t graph_batch = 0) {
  EngineConfig config;
  config.cuda_graph_batch = graph_batch;  // graphs_test.cc is about them
  config.model_path = directory;
  config.device = device;
  config.tensor_parallel_size = ranks;
  config.max_num_seqs = 8;
  config.num_threads = ranks;
  absl::StatusOr<std::unique_ptr<Executor>> executor = MakeLocalExecutor(config);
  if (!executor.ok()) return executor.status();
  const absl::StatusOr<StartResult> start = (*executor)->Start(nullptr);
  if (!start.ok()) return start.status();
  return Started{*std::move(executor), *start};
}

// Why this machine cannot run so many ranks: on a real one that has too few GPUs. Else empty.
std::string WhyNot([[maybe_unused]] int32_t ranks) {
#if defined(OPTSERVE_ON_GPU)
  for (int index = 0; index < ranks; ++index) {
    if (std::string error = OpenCudaDevice(index).error; !error.empty()) {
      if (index == 0 && std::getenv("OPTSERVE_NEED_GPU") != nullptr) throw std::runtime_error(error);
      return error;
    }
  }
#endif
  return "";
}

std::vector<RunResult> RunModel(const std::string& directory, int32_t ranks, DeviceChoice device,
                                const std::vector<std::vector<int32_t>>& prompts, const RunOptions& options,
                                int32_t graph_batch = 0) {
  absl::StatusOr<Started> run = Start(directory, ranks, device, graph_batch);
  if (!run.ok()) throw std::runtime_error(run.status().ToString());
  return RunPrompts(*run->executor, run->start.kv, prompts, options);
}

// Weights and activations of f16 against Hugging Face's f32.
constexpr float kHalfTolerance = 3e-2f;

struct GoldenCase {
  const char* model;
  const char* sm_version;
  int32_t ranks;
};

class CudaGoldenModels : public testing::TestWithParam<GoldenCase> {};

TEST_P(CudaGoldenModels, AreCloseToTransformers) {
  const auto& [name, sm_version, ranks] = GetParam();
  // Never on the emulator; on a machine with fewer GPUs than ranks there is nothing to run it on.
  if (const std::string why = WhyNot(ranks); !why.empty()) GTEST_SKIP() << why;
  const GoldenModel model = LoadGoldenModel(name);
  const Setting setting("OPTSERVE_EMULATOR_SM", sm_version);
  std::vector<std::vector<int32_t>> prompts;
  for (size_t i = 0; i < std::min<size_t>(2, model.prompts.size()); ++i) prompts.push_back(model.prompts[i].ids);
  const std::vector<RunResult> results = RunModel(model.directory, ranks, DeviceChoice::kCuda, prompts,
                                                  {.max_new_tokens = 3, .chunk = 40, .batched = true}, 2);
  for (size_t i = 0; i < results.size(); ++i) {
    SCOPED_TRACE(model.prompts[i].name);
    ASSERT_EQ(results[i].prompt_scores.size(), model.prompts[i].token_logprobs.size());
    for (size_t t = 0; t < results[i].prompt_scores.size(); ++t) {
      ASSERT_NEAR(results[i].prompt_scores[t].logprob, model.prompts[i].token_logprobs[t], kHalfTolerance) << t;
    }
    ASSERT_NEAR(results[i].generated[0].logprob, model.prompts[i].greedy_logprobs[0], kHalfTolerance);
  }
}

// Every head size, both orders of the norms, projections, every format of weights, no affine norm, odd widths.
INSTANTIATE_TEST_SUITE_P(
    Models, CudaGoldenModels,
    testing::Values(GoldenCase{"preln_d64", "80", 2}, GoldenCase{"preln_d128", "70", 1},
                    GoldenCase{"preln_d128", "80", 1}, GoldenCase{"preln_d80", "70", 2},
                    GoldenCase{"preln_d80", "80", 1}, GoldenCase{"postln_proj", "70", 2},
                    GoldenCase{"no_final_layer_norm", "80", 1}, GoldenCase{"galactica_f32", "70", 1},
                    GoldenCase{"noprefix_lmhead_bf16", "80", 4}, GoldenCase{"odd_multi_eos", "70", 1}),
    [](const auto& info) { return std::string(info.param.model) + "_sm" + info.param.sm_version; });

const std::string kDemo = DemoModelPath().string();
const std::vector<std::vector<int32_t>> kDemoPrompts = {{2, 51, 262, 1100}};

class CudaDemoModel : public testing::TestWithParam<int32_t> {};  // ranks

TEST_P(CudaDemoModel, GreedyTokensAreTheCpus) {
  // As above: never on the emulator.
  if (const std::string why = WhyNot(GetParam()); !why.empty()) GTEST_SKIP() << why;
  const RunOptions options{.max_new_tokens = 2};
  const std::vector<RunResult> cpu = RunModel(kDemo, 1, DeviceChoice::kCpu, kDemoPrompts, options);
  const std::vector<RunResult> cuda = RunModel(kDemo, GetParam(), DeviceChoice::kCuda, kDemoPrompts, options);
  for (size_t i = 0; i < cpu.size(); ++i) {
    ASSERT_EQ(cuda[i].generated.size(), cpu[i].generated.size());
    for (size_t t = 0; t < cpu[i].generated.size(); ++t) {
      EXPECT_EQ(cuda[i].generated[t].id, cpu[i].generated[t].id) << "token " << t;
      EXPECT_NEAR(cuda[i].generated[t].logprob, cpu[i].generated[t].logprob, kHalfTolerance);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Ranks, CudaDemoModel, testing::Values(1, 2, 4));

#if !defined(OPTSERVE_ON_GPU)

std::string RefusalOf(int32_t ranks, DeviceChoice device = DeviceChoice::kCuda) {
  const absl::StatusOr<Started> run = Start(kDemo, ranks, device);
  return run.ok() ? "" : run.status().ToString();
}

TEST(CudaRefusals, FewerDevicesThanRanks) {
  const Setting devices("OPTSERVE_EMULATOR_DEVICES", "2");
  EXPECT_THAT(
      RefusalOf(4),
      testing::HasSubstr("a rank needs GPU 2 for itself and there are 2; lower tensor_parallel_size to at most 2"));
  EXPECT_EQ(RefusalOf(2), "");
}

TEST(CudaRefusals, NoDevice) {
  const Setting devices("OPTSERVE_EMULATOR_DEVICES", "0");
  EXPECT_THAT(RefusalOf(1), testing::HasSubstr("this machine has no NVIDIA GPU"));
  EXPECT_EQ(RefusalOf(1, DeviceChoice::kAuto), "");  // the CPU
}

TEST(CudaRefusals, NoDriverOrOneThatIsTooOld) {
  {
    const Setting driver("OPTSERVE_EMULATOR_DRIVER", "0");
    EXPECT_THAT(RefusalOf(1), testing::HasSubstr("no NVIDIA driver is loaded; install one, or use --device cpu"));
  }
  const Setting driver("OPTSERVE_EMULATOR_DRIVER", "11080");
  EXPECT_THAT(RefusalOf(1), testing::HasSubstr("the NVIDIA driver knows CUDA 11.8 and this build needs 12.4"));
}

TEST(CudaRefusals, AnOldGpu) {
  const Setting sm("OPTSERVE_EMULATOR_SM", "61");
  EXPECT_THAT(RefusalOf(1), testing::HasSubstr("compute capability 6.1; 7.0 or newer is needed"));
}

TEST(CudaRefusals, AGpuForWhichNothingIsBuilt) {
  const Setting code("OPTSERVE_EMULATOR_CODE", "0");
  EXPECT_THAT(RefusalOf(1), testing::HasSubstr("compute capability 7.0, for which this build has no kernels"));
}

TEST(CudaRefusals, SeveralRanksOnAPartOfAGpu) {
  const Setting mig("OPTSERVE_EMULATOR_MIG", "1");
  EXPECT_THAT(RefusalOf(2), testing::AllOf(testing::HasSubstr("MIG 1g.5gb is a part of a GPU"),
                                           testing::HasSubstr("nvidia-smi -mig 0")));
  EXPECT_EQ(RefusalOf(1), "");
}

TEST(CudaRefusals, NoPeerAccessAndNoNccl) {
  const Setting peers("OPTSERVE_EMULATOR_PEERS", "0");
  EXPECT_THAT(RefusalOf(2),
              testing::MatchesRegex(".*emulated GPU 0 cannot write into the memory of emulated GPU 1, and NCCL (is not "
                                    "installed|cannot join 2 GPUs).*; use a tensor_parallel_size of 1"));
  EXPECT_EQ(RefusalOf(1), "");
}

TEST(CudaRefusals, HeadsThatDoNotDivide) { EXPECT_THAT(RefusalOf(3), testing::HasSubstr("3")); }

// An error of one device ends the step on all ranks, and says whose it was, in one line.
std::string ErrorWith(const char* name, const std::string& value, int32_t graph_batch) {
  const absl::StatusOr<Started> run =
      Start(LoadGoldenModel("preln_d64").directory, 2, DeviceChoice::kCuda, graph_batch);
  if (!run.ok()) return run.status().ToString();
  const Setting fault(name, value);
  try {
    RunPrompts(*run->executor, run->start.kv, {{2, 51, 62}}, {.max_new_tokens = 8});
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

TEST(CudaFaults, NameTheRankTheOpAndTheCode) {
  // A launch that is refused is known at once.
  EXPECT_THAT(ErrorWith("OPTSERVE_EMULATOR_REFUSED", "PagedPrefill", 0),
              testing::HasSubstr("rank 1: emulated GPU 1: PagedPrefill: launch failed: error 701, "
                                 "cudaErrorLaunchOutOfResources, too many resources requested for launch"));
  EXPECT_THAT(ErrorWith("OPTSERVE_EMULATOR_REFUSED", "AllReduceAddNorm", 0),
              testing::HasSubstr("rank 1: emulated GPU 1: AllReduceAddNorm: launch failed: error 701"));
  // What goes wrong on the device shows when the host waits for it.
  EXPECT_THAT(ErrorWith("OPTSERVE_EMULATOR_FAULT", "3", 0),
              testing::MatchesRegex(".*rank 1: emulated GPU 1: one of [0-9]+ ops, CopyIn to AllGather: waiting failed: "
                                    "error 700, cudaErrorIllegalAddress, an illegal memory access was encountered"));
  EXPECT_THAT(ErrorWith("OPTSERVE_EMULATOR_FAULT", "3", 1),
              testing::HasSubstr("one of 2 ops, CopyIn to a captured step: waiting failed: error 700"));
}

TEST(CudaRefusals, TooLittleMemoryForTheWorkspaceTheWeightsAndTheCache) {
  {
    const Setting memory("OPTSERVE_EMULATOR_MEMORY", "50000000");
    EXPECT_THAT(RefusalOf(1), testing::HasSubstr("has 50000000 bytes of memory free and 67108864 are needed: 17108864 "
                                                 "too few"));
  }
  constexpr int64_t kOwn = (int64_t{64} << 20) + (int64_t{1} << 20);  // the backend's workspace and counters
  {
    const Setting memory("OPTSERVE_EMULATOR_MEMORY", std::to_string(kOwn + 5'000'000));
    EXPECT_THAT(RefusalOf(1), testing::AllOf(testing::HasSubstr("5000000 free"), testing::HasSubstr("too few"),
                                             testing::HasSubstr("tensor_parallel_size of 4 would fit")));
  }
  {
    const Setting memory("OPTSERVE_EMULATOR_MEMORY", std::to_string(kOwn + 100'000'000));
    EXPECT_THAT(RefusalOf(1),
                testing::AllOf(testing::HasSubstr("KV cache on each GPU"), testing::HasSubstr("too few")));
  }
}

#endif  // OPTSERVE_ON_GPU

}  // namespace
}  // namespace optserve
