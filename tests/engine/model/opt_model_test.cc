// The logits themselves, which no client sees: tests/engine/executor/golden_models_test.cc checks what is made of them.

#include "engine/model/opt_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/comm/communicator.h"
#include "engine/executor/step_inputs.h"
#include "engine/model/kv_cache.h"
#include "tests/support/golden_models.h"

namespace optserve {
namespace {

constexpr int32_t kBlockSize = 16;

StepPlan PlanFor(const std::vector<int32_t>& ids) {
  StepPlan plan{.step = 1, .token_ids = ids};
  SequenceSlice slice{.sequence = 1, .num_tokens = static_cast<int32_t>(ids.size()), .wants_sample = true};
  for (int32_t i = 0; i * kBlockSize < slice.num_tokens; ++i) slice.block_table.push_back(i);
  plan.slices.push_back(slice);
  return plan;
}

class OptModelLogits : public testing::TestWithParam<std::string> {};

TEST_P(OptModelLogits, MatchTransformers) {
  const GoldenModel golden = LoadGoldenModel(GetParam());
  const OptConfig config = *LoadOptConfig(golden.directory);
  const std::unique_ptr<Checkpoint> checkpoint = *OpenCheckpoint(golden.directory);
  const OptTensors tensors = *OptTensors::Match(config, *checkpoint);
  const std::unique_ptr<Backend> backend = *MakeBackend({.num_threads = 1});
  const std::unique_ptr<Communicator> comm = std::move(MakeThreadCommunicators(1)[0]);
  KvCache kv = *KvCache::Allocate({.num_layers = config.num_layers,
                                   .num_blocks = (config.max_positions + kBlockSize - 1) / kBlockSize,
                                   .num_heads = config.num_heads,
                                   .block_size = kBlockSize,
                                   .head_size = config.head_size()},
                                  *backend);
  OptModel model = *OptModel::Make(config, *LoadOptWeights(config, tensors, {}, *backend), config.max_positions,
                                   /*deterministic_tp=*/false, kv, *comm, *backend);
  StepInputs inputs;
  for (const GoldenPrompt& prompt : golden.prompts) {
    SCOPED_TRACE(prompt.name);
    ASSERT_TRUE(inputs.Set(PlanFor(prompt.ids), kBlockSize, *backend).ok());
    model.Forward(inputs);
    const TensorView view = model.Logits(inputs, 0, 1);
    ASSERT_EQ(view.dims[1], golden.vocab_size);
    const std::vector<float> logits(view.as<float>(), view.as<float>() + view.dims[1]);
    for (size_t i = 0; i < prompt.first_logits.size(); ++i) {
      EXPECT_NEAR(logits[i], prompt.first_logits[i], kGoldenTolerance) << i;
    }
    EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(), prompt.argmax);
    double sum = 0.0;
    for (const float x : logits) sum += std::exp(static_cast<double>(x));
    EXPECT_NEAR(std::log(sum), prompt.logsumexp, kGoldenTolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, OptModelLogits, testing::ValuesIn(GoldenModelNames({"safetensors", "bin", "pt"})),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace optserve
