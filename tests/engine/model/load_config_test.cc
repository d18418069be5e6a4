#include "engine/model/load_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/checkpoint/mapped_checkpoint.h"
#include "engine/model/opt_sizes.h"
#include "engine/model/sharding.h"
#include "tests/support/temp_dir.h"

namespace optserve {
namespace {

// Shapes without data: 350 GB of it would not fit here.
std::unique_ptr<Checkpoint> ShapesOf(const OptConfig& config, const std::string& format) {
  auto checkpoint = std::make_unique<MappedCheckpoint>(format, "reshard-model_part-0.pt");
  const auto add = [&](const std::string& name, const TensorSpec& spec) {
    const int64_t rows = SizeOfDim(config, spec.rows), columns = SizeOfDim(config, spec.columns);
    checkpoint->Add({.name = "decoder." + name,
                     .view = spec.columns == Dim::kNone ? MakeView(nullptr, DType::kF16, rows)
                                                        : MakeView(nullptr, DType::kF16, rows, columns),
                     .tiles = {},
                     .file = "reshard-model_part-0.pt"});
  };
  for (const TensorSpec& spec : ModelTensors()) add(spec.name, spec);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (const TensorSpec& spec : LayerTensors()) add("layers." + std::to_string(layer) + "." + spec.name, spec);
  }
  EXPECT_TRUE(checkpoint->Finish().ok());
  return checkpoint;
}

TEST(InferOptConfigTest, KnowsEveryPublishedSize) {
  for (const OptSize& size : OptSizes()) {
    SCOPED_TRACE(size.name);
    const absl::StatusOr<OptConfig> config = InferOptConfig(*ShapesOf(size.config, "metaseq"));
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->num_heads, size.config.num_heads);
    EXPECT_EQ(config->layer_norm_first, size.config.layer_norm_first);
  }
}

TEST(InferOptConfigTest, SaysWhatToDoAboutOtherShapes) {
  OptConfig config;
  config.vocab_size = 50000;  // Galactica's: same shapes, another activation
  const absl::Status status = InferOptConfig(*ShapesOf(config, "metaseq")).status();
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("no config.json beside reshard-model_part-0.pt"));
}

TEST(LoadModelConfigTest, AConfigFileComesFirst) {
  const TempDir folder;
  folder.Write("config.json", R"({"num_attention_heads": 6})");
  EXPECT_EQ(LoadModelConfig(folder.path().string(), *ShapesOf(OptConfig(), "metaseq"))->num_heads, 6);
}

TEST(LoadModelConfigTest, OnlyMetaseqsDownloadsComeWithoutOne) {
  const TempDir folder;
  EXPECT_EQ(LoadModelConfig(folder.path().string(), *ShapesOf(OptConfig(), "metaseq"))->num_heads, 12);
  EXPECT_TRUE(
      absl::IsNotFound(LoadModelConfig(folder.path().string(), *ShapesOf(OptConfig(), "safetensors")).status()));
}

TEST(OpenModelTest, SpeaksOfABrokenConfigBeforeItMissesWeights) {
  const TempDir folder;
  EXPECT_THAT(std::string(OpenModel(folder.path().string()).status().message()), testing::HasSubstr("no weights"));
  folder.Write("config.json", "{");
  EXPECT_THAT(std::string(OpenModel(folder.path().string()).status().message()), testing::HasSubstr("config.json"));
}

// A model's own numbers in a file of the user's, for weights that come without a config.json or with a wrong one.
TEST(LoadConfigTest, AFileOfTheUsersIsReadInstead) {
  const TempDir folder, elsewhere;
  OptConfig odd;
  odd.num_layers = 3;
  const auto shapes = ShapesOf(odd, "metaseq");
  const auto load = [&](const std::string& file) {
    return LoadModelConfig(folder.path().string(), *shapes, (elsewhere.path() / file).string());
  };
  EXPECT_THAT(std::string(LoadModelConfig(folder.path().string(), *shapes).status().message()),
              testing::HasSubstr("--model-config"));
  elsewhere.Write("three.json", R"({"num_hidden_layers": 3, "num_attention_heads": 6})");
  EXPECT_EQ(load("three.json")->num_heads, 6);
  folder.Write("config.json", "{");
  EXPECT_EQ(load("three.json")->num_heads, 6);
}

TEST(LoadConfigTest, ErrorsNameTheFileWithItsFolder) {
  const TempDir folder, elsewhere;
  const std::string path = folder.path().string(), file = (elsewhere.path() / "mine.json").string();
  const auto error = [&](const std::string& config_file) {
    return std::string(LoadOptConfig(path, config_file).status().message());
  };
  EXPECT_EQ(error(""), path + "/config.json: No such file or directory");
  EXPECT_EQ(error(file), file + ": no such file");
  elsewhere.Write("mine.json", R"({"num_attention_heads": 7})");
  EXPECT_EQ(error(file), file + ": num_attention_heads is 7, which does not divide hidden_size 768");
  folder.Write("config.json", "[]");
  EXPECT_EQ(error(""), path + "/config.json: not a JSON object");
  elsewhere.Write("mine.json", "{}");
  folder.Write("generation_config.json", "[]");
  EXPECT_EQ(error(file), path + "/generation_config.json: not a JSON object");
  EXPECT_EQ(error("/dev/zero"), "/dev/zero: not a regular file");
}

}  // namespace
}  // namespace optserve
