#include "engine/planner/deployment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/model/opt_sizes.h"
#include "nlohmann/json.hpp"

namespace optserve {
namespace {

using ::testing::HasSubstr;

DeploymentRequest RequestFor(std::string_view size, std::string_view node) {
  return {.model_name = std::string(size),
          .model = *FindOptSize(size),
          .node = *FindNode(node),
          .profile = *FindEngineProfile("optserve-cuda")};
}

const DeploymentOption* FindOption(const Deployment& deployment, int32_t ranks) {
  for (const DeploymentOption& option : deployment.options) {
    if (option.tensor_parallel_size == ranks) return &option;
  }
  return nullptr;
}

TEST(DeploymentTest, Opt175bNeedsAllOfADgx2) {
  const Deployment deployment = *PlanDeployment(RequestFor("opt-175b", "dgx2"));
  EXPECT_FALSE(FindOption(deployment, 8)->fits());
  const DeploymentOption* option = FindOption(deployment, 16);
  ASSERT_TRUE(option->fits());
  EXPECT_EQ(option->num_replicas, 1);
  EXPECT_NEAR(option->weight_bytes_per_device, 21.9e9, 0.1e9);
  EXPECT_EQ(option->max_concurrency, option->kv_tokens / 640);
  EXPECT_EQ(option->batches.back().batch, option->max_concurrency);
  // 24.3 ms to read the weights at 900 GB/s.
  EXPECT_GT(option->batches.front().next_token_seconds.fast, 0.0243);
  EXPECT_LT(option->batches.front().next_token_seconds.likely, 0.040);
}

TEST(DeploymentTest, OnlySizesThatDivideTheHeadsAreOffered) {
  const Deployment deployment = *PlanDeployment(RequestFor("opt-30b", "dgx2"));
  EXPECT_EQ(FindOption(deployment, 16), nullptr) << "56 heads";
  EXPECT_EQ(FindOption(deployment, 8)->num_replicas, 2);
  EXPECT_NE(FindOption(deployment, 7), nullptr);
}

TEST(DeploymentTest, MoreSequencesMakeMoreTokensAndLongerSteps) {
  const Deployment deployment = *PlanDeployment(RequestFor("opt-13b", "dgx-a100"));
  for (const DeploymentOption& option : deployment.options) {
    for (size_t i = 1; i < option.batches.size(); ++i) {
      EXPECT_GT(option.batches[i].tokens_per_second.likely, option.batches[i - 1].tokens_per_second.likely);
      EXPECT_GT(option.batches[i].next_token_seconds.likely, option.batches[i - 1].next_token_seconds.likely);
      EXPECT_GT(option.batches[i].batch, option.batches[i - 1].batch);
    }
  }
}

TEST(DeploymentTest, FewerBytesLeaveMoreRoom) {
  DeploymentRequest request = RequestFor("opt-175b", "dgx-a100");
  const int64_t f16 = FindOption(*PlanDeployment(request), 8)->kv_tokens;
  request.weight_bytes = 1;
  EXPECT_GT(FindOption(*PlanDeployment(request), 8)->kv_tokens, f16 * 3 / 2);
}

TEST(DeploymentTest, TheLengthsMustFitTheContext) {
  DeploymentRequest request = RequestFor("opt-125m", "h200");
  request.prompt_tokens = 2000;
  request.output_tokens = 49;
  EXPECT_THAT(std::string(PlanDeployment(request).status().message()), HasSubstr("at most 2048"));
  request.output_tokens = 48;
  EXPECT_TRUE(PlanDeployment(request).ok());
}

TEST(DeploymentTest, ThePageSaysModelledAndNamesItsSources) {
  const std::string text = DeploymentText(*PlanDeployment(RequestFor("opt-175b", "dgx2")));
  for (const char* part : {"modelled, not measured", "16 x V100", "does not fit", "all-reduce", "datasheet"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  EXPECT_THAT(DeploymentText(*PlanDeployment(RequestFor("opt-175b", "h200"))), HasSubstr("does not fit on h200"));
}

TEST(DeploymentTest, JsonSaysTheSame) {
  const Deployment deployment = *PlanDeployment(RequestFor("opt-175b", "dgx2"));
  const nlohmann::json json = nlohmann::json::parse(DeploymentJson(deployment));
  EXPECT_EQ(json["kind"], "modelled");
  EXPECT_EQ(json["options"].size(), deployment.options.size());
  const nlohmann::json& last = json["options"].back();
  EXPECT_EQ(last["tensor_parallel_size"], 16);
  const nlohmann::json& batch = last["batches"][0];
  double sum = 0;
  for (const auto& [part, seconds] : batch["seconds"].items()) sum += seconds.get<double>();
  EXPECT_NEAR(sum, batch["next_token_seconds"]["likely"].get<double>(), 1e-9);
}

}  // namespace
}  // namespace optserve
