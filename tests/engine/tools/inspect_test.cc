#include "engine/tools/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/golden_models.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

using testing::HasSubstr;

ModelReport Inspect(const std::string& name) {
  const absl::StatusOr<ModelReport> report = InspectModel(TestDataPath("golden/models/" + name).string());
  EXPECT_TRUE(report.ok()) << report.status();
  return *report;
}

TEST(InspectTest, CountsBytesAndParameters) {
  const ModelReport report = Inspect("preln_d64");
  EXPECT_EQ(report.format, "safetensors");
  EXPECT_EQ(report.total_bytes, 2 * report.num_parameters);
  ASSERT_FALSE(report.ranks.empty());
  EXPECT_EQ(report.ranks[0].tensor_parallel_size, 1);
  EXPECT_EQ(report.ranks[0].weight_bytes, report.total_bytes);
  for (size_t i = 1; i < report.ranks.size(); ++i) {
    EXPECT_LT(report.ranks[i].weight_bytes, report.ranks[i - 1].weight_bytes);
    EXPECT_EQ(report.ranks[i].kv_bytes_per_token * report.ranks[i].tensor_parallel_size,
              report.ranks[0].kv_bytes_per_token);
  }
}

// Layouts of the same model say the same of it.
TEST(InspectTest, EveryFormatIsInspected) {
  const ModelReport twin = Inspect("metaseq_hf");
  for (const char* name : {"metaseq_mp2", "metaseq_mp4", "metaseq_restored", "metaseq_fsdp"}) {
    const ModelReport report = Inspect(name);
    EXPECT_EQ(report.format, "metaseq");
    EXPECT_EQ(report.num_parameters, twin.num_parameters);
    EXPECT_EQ(report.tensors.size(), twin.tensors.size());
  }
}

TEST(InspectTest, TextAndJsonSayTheSame) {
  const ModelReport report = Inspect("odd_multi_eos");
  EXPECT_THAT(ReportText(report), HasSubstr("2 layers, hidden size 48, 3 heads of 16"));
  EXPECT_THAT(ReportText(report), HasSubstr("end of sequence 2, 76"));
  const auto json = nlohmann::json::parse(ReportJson(report));
  EXPECT_EQ(json["config"]["num_heads"], 3);
  EXPECT_EQ(json["config"]["eos_token_ids"], nlohmann::json({2, 76}));
  EXPECT_EQ(json["tensors"].size(), report.tensors.size());
  EXPECT_EQ(json["tensor_parallel"][0]["weight_bytes_per_rank"], report.total_bytes);
}

}  // namespace
}  // namespace optserve
