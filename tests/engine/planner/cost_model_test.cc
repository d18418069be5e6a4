#include "engine/planner/cost_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/model/opt_sizes.h"

// The model must say what others have measured, within 20 %, by its constants alone.

namespace optserve {
namespace {

CostModel Model(std::string_view size, std::string_view node, std::string_view profile, int32_t ranks) {
  return CostModel({.model = *FindOptSize(size),
                    .node = *FindNode(node),
                    .profile = *FindEngineProfile(profile),
                    .tensor_parallel_size = ranks});
}

double DecodeMs(const CostModel& model, int64_t sequences, int64_t context) {
  return model.Step(DecodeWork(sequences, context)).total() * 1e3;
}

// `published` within 20 % of `modelled`.
MATCHER_P(IsWithin20Percent, published, "") {
  *result_listener << "off by " << (arg / published - 1) * 100 << " %";
  return arg >= published * 0.8 && arg <= published * 1.2;
}

// Deja Vu (ICML 2023, arXiv 2310.17157), table 4: FasterTransformer, OPT-175B f16, 8 x A100-80, batch 1.
TEST(CalibrationTest, FasterTransformerOpt175bOnEightA100) {
  const CostModel model = Model("opt-175b", "dgx-a100", "cpp-2023", 8);
  EXPECT_THAT(DecodeMs(model, 1, 128), IsWithin20Percent(40.5));
  EXPECT_THAT(DecodeMs(model, 1, 256), IsWithin20Percent(40.9));
  EXPECT_THAT(DecodeMs(model, 1, 512), IsWithin20Percent(41.7));
  EXPECT_THAT(DecodeMs(model, 1, 1024), IsWithin20Percent(43.4));
}

// The floor of the same: reading the weights at full speed.
TEST(CalibrationTest, FloorOfOpt175bOnEightA100) {
  const CostModel model = Model("opt-175b", "dgx-a100", "cpp-2023", 8);
  const StepCost cost = model.Step(DecodeWork(1, 1));
  EXPECT_NEAR((cost.products + cost.head) * 0.85 * 1e3, 21.4, 0.1);
}

// facebookresearch/metaseq docs/faster-transformer.md (read off its plots): prompt 4, 256 tokens generated.
TEST(CalibrationTest, FasterTransformerPlotsOfMetaseq) {
  EXPECT_THAT(DecodeMs(Model("opt-175b", "dgx-a100", "cpp-2023", 8), 64, 132), IsWithin20Percent(57.0));
  EXPECT_THAT(DecodeMs(Model("opt-30b", "dgx-a100", "cpp-2023", 2), 1, 132), IsWithin20Percent(23.1));
  EXPECT_THAT(DecodeMs(Model("opt-30b", "dgx-a100", "cpp-2023", 8), 1, 132), IsWithin20Percent(10.8));
}

// LLMServe/DistServe, profiler-a100-80g.vllm.json: decode 23.5 + 0.00059 * context tokens + 0.061 * batch ms.
TEST(CalibrationTest, VllmOpt13bOnA100) {
  const CostModel model = Model("opt-13b", "dgx-a100", "vllm-2023", 1);
  for (const auto& [batch, context] : {std::pair(1, 100), {1, 2000}, {16, 500}, {64, 300}, {90, 1000}}) {
    const double published = 23.5 + 0.00059 * batch * context + 0.061 * batch;
    EXPECT_THAT(DecodeMs(model, batch, context), IsWithin20Percent(published)) << batch << " x " << context;
  }
  // Prefill 22.1 + 0.1405 * tokens ms: the slope.
  const double slope_ms = (model.Step(PrefillWork(2000)).total() - model.Step(PrefillWork(1000)).total());
  EXPECT_THAT(slope_ms, IsWithin20Percent(0.1405));
}

// The same file: OPT-66B.
TEST(CalibrationTest, VllmOpt66bOnA100) {
  EXPECT_THAT(DecodeMs(Model("opt-66b", "dgx-a100", "vllm-2023", 4), 1, 1), IsWithin20Percent(39.6));
  EXPECT_THAT(DecodeMs(Model("opt-66b", "dgx-a100", "vllm-2023", 8), 1, 1), IsWithin20Percent(31.2));
}

// LLMServe/DistServe, profiler-a100-80g.distserve.json: the constant of decoding, and the slope of prefill.
TEST(CalibrationTest, DistServeOnA100) {
  EXPECT_THAT(DecodeMs(Model("opt-66b", "dgx-a100", "cpp-2023", 4), 1, 1), IsWithin20Percent(30.8));
  EXPECT_THAT(DecodeMs(Model("opt-66b", "dgx-a100", "cpp-2023", 2), 1, 1), IsWithin20Percent(48.3));
  EXPECT_THAT(DecodeMs(Model("opt-66b", "dgx-a100", "cpp-2023", 8), 1, 1), IsWithin20Percent(23.2));
  EXPECT_THAT(DecodeMs(Model("opt-13b", "dgx-a100", "cpp-2023", 1), 1, 1), IsWithin20Percent(19.9));
  EXPECT_THAT(DecodeMs(Model("opt-13b", "dgx-a100", "cpp-2023", 2), 1, 1), IsWithin20Percent(13.3));
  EXPECT_THAT(DecodeMs(Model("opt-13b", "dgx-a100", "cpp-2023", 4), 1, 1), IsWithin20Percent(10.3));
  const CostModel model = Model("opt-13b", "dgx-a100", "cpp-2023", 1);
  EXPECT_THAT(model.Step(PrefillWork(2000)).total() - model.Step(PrefillWork(1000)).total(), IsWithin20Percent(0.102));
}

// vLLM (SOSP 2023), table 1: 60.1K KV slots for OPT-175B on 8 x A100-80.
TEST(CostModelTest, KvRoomOfOpt175bOnEightA100) {
  EXPECT_THAT(static_cast<double>(Model("opt-175b", "dgx-a100", "vllm-2023", 8).KvTokens()),
              IsWithin20Percent(60100.0));
}

TEST(CostModelTest, WeightsOfARankAreExact) {
  // Sums of the tensors' shapes, divided as the engine divides them.
  EXPECT_EQ(Model("opt-175b", "dgx2", "optserve-cuda", 8).WeightBytes(), 43707629568.0);
  EXPECT_EQ(Model("opt-175b", "dgx2", "optserve-cuda", 1).WeightBytes(), 349208936448.0);
  EXPECT_EQ(Model("opt-125m", "dgx2", "optserve-cuda", 1).WeightBytes(), 250478592.0);
  EXPECT_EQ(Model("opt-350m", "dgx2", "optserve-cuda", 1).WeightBytes(), 662392832.0);
  EXPECT_EQ(Model("opt-66b", "dgx2", "optserve-cuda", 1).WeightBytes(), 131439403008.0);
  EXPECT_EQ(Model("opt-175b", "dgx2", "optserve-cuda", 16).KvBytesPerToken(), 294912.0);
}

TEST(CostModelTest, WhatDoesNotFitHasNoRoom) {
  EXPECT_LT(Model("opt-175b", "dgx2", "optserve-cuda", 8).KvTokens(), 0);
  EXPECT_GT(Model("opt-175b", "dgx2", "optserve-cuda", 16).KvTokens(), 25000);
}

TEST(CostModelTest, OutlooksAreInOrderAndPartsAddUp) {
  const CostModel model = Model("opt-175b", "dgx2", "optserve-cuda", 16);
  for (const StepWork& work : {DecodeWork(1, 100), DecodeWork(64, 500), PrefillWork(2048)}) {
    const double fast = model.Step(work, Outlook::kFast).total();
    const double likely = model.Step(work, Outlook::kLikely).total();
    const double slow = model.Step(work, Outlook::kSlow).total();
    EXPECT_LT(fast, likely);
    EXPECT_LT(likely, slow);
  }
  // No faster than the weights can be read: 21.8 GB at 900 GB/s.
  EXPECT_GT(model.Step(DecodeWork(1, 1), Outlook::kFast).total(), 0.0242);
}

TEST(NodeTest, KnownNodesAreFoundAndOthersAreListed) {
  for (const NodeSpec& node : Nodes()) {
    EXPECT_TRUE(FindNode(node.name).ok());
    EXPECT_FALSE(node.source.empty()) << node.name;
  }
  EXPECT_THAT(std::string(FindNode("dgx3").status().message()), testing::HasSubstr("dgx2, dgx1"));
}

TEST(NodeTest, AFileIsChecked) {
  const std::string good = R"({"name":"mine","num_devices":2,"memory_bytes":16e9,"read_bytes_per_second":300e9,
                              "flops_per_second":60e12,"link_bytes_per_second":10e9})";
  const auto node = ParseNode(good);
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_EQ(node->num_devices, 2);
  EXPECT_EQ(node->flops_per_second, 60e12);
  const auto error_of = [](const std::string& json) { return std::string(ParseNode(json).status().message()); };
  EXPECT_EQ(error_of("[]"), "the node is not a JSON object");
  EXPECT_EQ(error_of(R"({"gpus":2})"), "\"gpus\" is no key of a node");
  EXPECT_EQ(error_of(R"({"name":3})"), "name is 3, but must be a string");
  EXPECT_EQ(error_of(R"({"name":"x","num_devices":1})"), "memory_bytes is missing");
  EXPECT_EQ(error_of(R"({"num_devices":0})"), "num_devices is 0, but must be a number from 1 to 1e18");
  EXPECT_EQ(error_of(R"({"name":"x","num_devices":2,"memory_bytes":1,"read_bytes_per_second":1,"flops_per_second":1})"),
            "link_bytes_per_second is missing, but there are 2 devices");
  EXPECT_EQ(
      error_of(R"({"name":"x","num_devices":1.5,"memory_bytes":1,"read_bytes_per_second":1,"flops_per_second":1})"),
      "num_devices is 1.5, but must be a whole number from 1 to 1024");
}

TEST(OptSizesTest, NamesAreFoundInEverySpelling) {
  EXPECT_EQ(FindOptSize("opt-175b")->num_layers, 96);
  EXPECT_EQ(FindOptSize("175B")->num_heads, 96);
  EXPECT_EQ(FindOptSize("facebook/opt-350m")->embed_size, 512);
  EXPECT_THAT(std::string(FindOptSize("opt-7b").status().message()), testing::HasSubstr("opt-6.7b"));
}

// The sizes of OPT-125M: 123.5 million weights in products, 12 layers of 768.
TEST(DemandTest, IsThatOfTheTokensAndNotOfTheNode) {
  for (const int32_t ranks : {1, 2}) {
    const CostModel model = Model("opt-125m", "dgx2", "optserve-cuda", ranks);
    const StepDemand demand = model.Demand(DecodeWork(/*num_sequences=*/3, /*context_tokens=*/100));
    EXPECT_NEAR(demand.weight_bytes, 2 * 123.5e6, 0.2e6);
    EXPECT_NEAR(demand.weight_flops, 3 * 2 * 123.5e6, 0.6e6);
    EXPECT_DOUBLE_EQ(demand.kv_bytes, 300.0 * 2 * 12 * 768 * 2);
    EXPECT_DOUBLE_EQ(demand.attention_flops, 300.0 * 4 * 12 * 768);
  }
}

}  // namespace
}  // namespace optserve
