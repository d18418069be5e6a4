#include "engine/checkpoint/metaseq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/checkpoint/metaseq_files.h"
#include "engine/checkpoint/tensor_region.h"
#include "kernels/common/half.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_data.h"
#include "tests/support/torch_file.h"

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

// Flattened files of older tools say nowhere what they are made of. Elements are numbered from 0 in each parameter; the
// second part's numbers begin at 0x4000.
TEST(MetaseqTest, FlattenedFilesWithoutDescriptionAreOfTheOrderThatEveryOptHas) {
  constexpr int64_t kHidden = 16, kParts = 2, kShards = 3, kVocabulary = 5;
  constexpr int64_t kLayer = (12 * kHidden * kHidden + 7 * kHidden) / kParts + 6 * kHidden;
  constexpr int64_t kRoot = (kVocabulary + 2050 + 2) * kHidden;
  const auto bits = [](int64_t part, int64_t i) { return static_cast<uint16_t>(part * 0x4000 + i % 0x3fff); };
  const TempDir folder;
  for (int64_t part = 0; part < kParts; ++part) {
    for (int64_t shard = 0; shard < kShards; ++shard) {
      std::vector<std::string> storages;
      std::vector<std::pair<std::string, std::string>> parameters;
      for (const auto& [name, elements] :
           {std::pair("flat_param_0", kRoot), {"decoder.layers.0.flat_param_0", kLayer}}) {
        const int64_t length = (elements + kShards - 1) / kShards;
        std::string bytes(static_cast<size_t>(2 * length), '\0');
        for (int64_t i = 0; i < length; ++i) {
          const uint16_t value = bits(part, shard * length + i);
          std::memcpy(bytes.data() + 2 * i, &value, 2);
        }
        const std::string storage = pickle::Storage("HalfStorage", std::to_string(storages.size()), length);
        parameters.emplace_back(name, pickle::Tensor(storage, 0, {length}, {1}));
        storages.push_back(std::move(bytes));
      }
      folder.Write("c-model_part-" + std::to_string(part) + "-shard" + std::to_string(shard) + ".pt",
                   TorchZip(pickle::Dict({{"model", pickle::Dict(parameters)}}), storages));
    }
  }
  const auto checkpoint = OpenCheckpoint(folder.path().string());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto expect = [&](const std::string& name, int64_t rows, int64_t columns, uint16_t first, uint16_t last) {
    const CheckpointTensor* tensor = (*checkpoint)->Find("decoder." + name);
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(tensor->view.dims[0], rows) << name;
    EXPECT_EQ(tensor->view.rank == 1 ? 1 : tensor->view.dims[1], columns) << name;
    std::vector<uint16_t> values(static_cast<size_t>(rows * columns));
    CopyRegion(*tensor, {.rows = rows, .columns = columns}, reinterpret_cast<std::byte*>(values.data()));
    EXPECT_EQ(values.front(), first) << name;
    EXPECT_EQ(values.back(), last) << name;
  };
  expect("embed_tokens.weight", 10, 16, bits(0, 0), bits(1, 79));
  expect("embed_positions.weight", 2050, 16, bits(0, 80), bits(0, 80 + 2050 * 16 - 1));
  expect("final_layer_norm.bias", 16, 1, bits(0, kRoot - 16), bits(0, kRoot - 1));
  expect("layers.0.self_attn.k_proj.weight", 16, 16, bits(0, 0), bits(1, 127));
  expect("layers.0.self_attn.q_proj.weight", 16, 16, bits(0, 256), bits(1, 383));
  expect("layers.0.fc2.bias", 16, 1, bits(0, kLayer - 48), bits(0, kLayer - 33));
  EXPECT_EQ((*checkpoint)->tensors().size(), 20);
}

TEST(MetaseqTest, APartOfAsManyRanksIsNotCopied) {
  const auto checkpoint = *OpenCheckpoint(TestDataPath("golden/models/metaseq_mp2").string());
  const CheckpointTensor& fc2 = *checkpoint->Find("decoder.layers.1.fc2.weight");
  const int64_t half = fc2.view.dims[1] / 2;
  EXPECT_TRUE(FindRegion(fc2, {.rows = fc2.view.dims[0], .column = half, .columns = half}));
  EXPECT_FALSE(FindRegion(fc2, {.rows = fc2.view.dims[0], .column = half - 1, .columns = 2}));
}

// For messages about damage: a whole tensor has as many files as it has parts and shards.
TEST(MetaseqTest, EveryTileKnowsItsFile) {
  const auto parts = *OpenCheckpoint(TestDataPath("golden/models/metaseq_mp4").string());
  const CheckpointTensor& embedding = *parts->Find("decoder.embed_tokens.weight");
  ASSERT_EQ(embedding.tiles.size(), 4);
  for (size_t part = 0; part < 4; ++part) {
    EXPECT_EQ(embedding.tiles[part].file, "reshard-model_part-" + std::to_string(part) + ".pt");
  }
  const auto shards = *OpenCheckpoint(TestDataPath("golden/models/metaseq_fsdp").string());
  std::set<std::string_view> files;
  for (const CheckpointTensor& tensor : shards->tensors()) {
    for (const TensorTile& tile : tensor.tiles) files.insert(tile.file);
  }
  EXPECT_EQ(files.size(), 6);
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
