#include "engine/checkpoint/metaseq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/checkpoint/metaseq_files.h"
#include "engine/checkpoint/tensor_region.h"
#include "kernels/common/half.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<float> Values(const CheckpointTensor& tensor) {
  const TensorRegion all{.rows = tensor.view.dims[0], .columns = tensor.view.rank == 1 ? 1 : tensor.view.dims[1]};
  const size_t element = SizeOf(tensor.view.dtype);
  std::vector<std::byte> bytes(static_cast<size_t>(all.num_elements()) * element);
  CopyRegion(tensor, all, bytes.data());
  std::vector<float> values;
  for (size_t at = 0; at < bytes.size(); at += element) {
    if (element == sizeof(float)) {
      std::memcpy(&values.emplace_back(), bytes.data() + at, element);
    } else {
      F16 half;
      std::memcpy(&half, bytes.data() + at, element);
      values.push_back(ToF32(half));
    }
  }
  return values;
}

// All tensors of a golden model but the embedding's aliases, by their names behind "decoder.".
std::map<std::string, std::pair<std::vector<int64_t>, std::vector<float>>> Tensors(const std::string& name) {
  const auto checkpoint = OpenCheckpoint(TestDataPath("golden/models/" + name).string());
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  std::map<std::string, std::pair<std::vector<int64_t>, std::vector<float>>> tensors;
  for (const CheckpointTensor& tensor : (*checkpoint)->tensors()) {
    if (tensor.name == "lm_head.weight") continue;
    const std::vector<int64_t> dims(tensor.view.dims.begin(), tensor.view.dims.begin() + tensor.view.rank);
    tensors[tensor.name.substr(tensor.name.find("decoder."))] = {dims, Values(tensor)};
  }
  return tensors;
}

// Some of these tensors have no effect on any output (the keys' bias), so outputs alone would not do.
TEST(MetaseqTest, EveryLayoutHoldsTheTensorsOfItsTwinBitForBit) {
  for (const char* name : {"metaseq_mp2", "metaseq_mp4", "metaseq_restored", "metaseq_fsdp"}) {
    EXPECT_EQ(Tensors(name), Tensors("metaseq_hf")) << name;
  }
  EXPECT_EQ(Tensors("metaseq_350m"), Tensors("postln_proj"));
}

TEST(MetaseqTest, APartOfAsManyRanksIsNotCopied) {
  const auto checkpoint = *OpenCheckpoint(TestDataPath("golden/models/metaseq_mp2").string());
  const CheckpointTensor& fc2 = *checkpoint->Find("decoder.layers.1.fc2.weight");
  const int64_t half = fc2.view.dims[1] / 2;
  EXPECT_TRUE(FindRegion(fc2, {.rows = fc2.view.dims[0], .column = half, .columns = half}));
  EXPECT_FALSE(FindRegion(fc2, {.rows = fc2.view.dims[0], .column = half - 1, .columns = 2}));
}

std::string ErrorOf(const std::vector<std::string>& names) {
  return std::string(FindMetaseqFiles(names).status().message());
}

TEST(MetaseqFilesTest, OrdersPartsAndShardsByNumber) {
  std::vector<std::string> names = {"config.json", "dict.txt"};
  for (int part = 0; part < 12; ++part) names.push_back("reshard-model_part-" + std::to_string(part) + ".pt");
  const MetaseqFiles parts = **FindMetaseqFiles(names);
  ASSERT_EQ(parts.parts.size(), 12);
  EXPECT_THAT(parts.parts[10], ElementsAre("reshard-model_part-10.pt"));

  const MetaseqFiles shards = **FindMetaseqFiles(
      {"c-model_part-0-shard10.pt", "c-model_part-0-shard9.pt", "c-model_part-0-shard0.pt", "c-model_part-0-shard1.pt",
       "c-model_part-0-shard2.pt", "c-model_part-0-shard3.pt", "c-model_part-0-shard4.pt", "c-model_part-0-shard5.pt",
       "c-model_part-0-shard6.pt", "c-model_part-0-shard7.pt", "c-model_part-0-shard8.pt"});
  EXPECT_EQ(shards.parts[0][10], "c-model_part-0-shard10.pt");
}

TEST(MetaseqFilesTest, TakesOptImlsNamesAndSingleFiles) {
  EXPECT_EQ((**FindMetaseqFiles({"checkpoint_1_4000.pt-model_part-0.pt", "checkpoint_1_4000.pt-model_part-1.pt"}))
                .parts.size(),
            2);
  EXPECT_THAT((**FindMetaseqFiles({"reshard.pt", "vocab.json"})).parts[0], ElementsAre("reshard.pt"));
  EXPECT_EQ(*FindMetaseqFiles({"config.json", "vocab.json"}), std::nullopt);
}

TEST(MetaseqFilesTest, RefusesGapsAndMixtures) {
  EXPECT_THAT(ErrorOf({"a-model_part-0.pt", "a-model_part-2.pt"}), HasSubstr("a-model_part-1.pt is missing"));
  EXPECT_THAT(ErrorOf({"a-model_part-1.pt"}), HasSubstr("a-model_part-0.pt is missing"));
  EXPECT_THAT(ErrorOf({"a-model_part-0-shard0.pt", "a-model_part-0-shard2.pt"}), HasSubstr("shard1.pt is missing"));
  EXPECT_THAT(ErrorOf({"a-model_part-0-shard0.pt", "a-model_part-0-shard1.pt", "a-model_part-1-shard0.pt"}),
              HasSubstr("has 1 shards, but part 0 has 2"));
  EXPECT_THAT(ErrorOf({"a-model_part-0.pt", "b-model_part-0.pt"}), HasSubstr("different checkpoints"));
  EXPECT_THAT(ErrorOf({"a-model_part-0.pt", "a-model_part-0-shard0.pt"}), HasSubstr("different checkpoints"));
  EXPECT_THAT(ErrorOf({"one.pt", "two.pt"}), HasSubstr("which of them"));
}

}  // namespace
}  // namespace optserve
