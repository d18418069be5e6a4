#include "engine/tools/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/tensor_region.h"
#include "tests/engine/tools/expect_golden.h"
#include "tests/support/golden_models.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string ModelPath(const std::string& name) { return TestDataPath("golden/models/" + name).string(); }

ConvertReport Convert(const ConvertOptions& options) {
  const absl::StatusOr<ConvertReport> report = ConvertModel(options);
  EXPECT_TRUE(report.ok()) << report.status();
  return report.value_or(ConvertReport());
}

std::vector<fs::path> Files(const fs::path& folder) {
  std::vector<fs::path> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

std::string Contents(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::vector<std::byte> Bytes(const CheckpointTensor& tensor) {
  const TensorRegion all{.rows = tensor.view.dims[0], .columns = tensor.view.rank == 1 ? 1 : tensor.view.dims[1]};
  std::vector<std::byte> bytes(tensor.view.num_bytes());
  CopyRegion(tensor, all, bytes.data());
  return bytes;
}

class ConvertGolden : public testing::TestWithParam<std::string> {};

// From any format and layout to several files and to one, without a bit or an answer changing.
TEST_P(ConvertGolden, RoundTrips) {
  const GoldenModel golden = LoadGoldenModel(GetParam());
  const TempDir sharded, single;
  const ConvertReport first =
      Convert({.source = golden.directory, .target = sharded.path().string(), .max_shard_bytes = 50'000});
  EXPECT_GT(first.files_written, 1);
  EXPECT_EQ(first.files_kept, 0);
  Convert({.source = sharded.path().string(), .target = single.path().string()});
  ExpectGolden(sharded.path().string(), 1, golden);
  ExpectGolden(single.path().string(), 1, golden);

  const auto source = *OpenCheckpoint(golden.directory), result = *OpenCheckpoint(single.path().string());
  EXPECT_EQ(result->source(), "model.safetensors");
  for (const CheckpointTensor& tensor : result->tensors()) {
    const std::string bare = tensor.name.starts_with("model.") ? tensor.name.substr(6) : tensor.name;
    const CheckpointTensor* before =
        source->Find(bare) != nullptr ? source->Find(bare) : source->Find(std::string("model.").append(bare));
    ASSERT_NE(before, nullptr) << bare;
    EXPECT_EQ(Bytes(tensor), Bytes(*before)) << bare;
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, ConvertGolden, testing::ValuesIn(GoldenModelNames({"safetensors", "bin", "pt"})),
                         [](const auto& info) { return info.param; });

TEST(ConvertTest, WritesWhatHuggingFaceWrites) {
  const TempDir target;
  Convert({.source = ModelPath("preln_d64"), .target = target.path().string()});
  EXPECT_THAT(Files(target.path()), testing::ElementsAre(".converted-from", "config.json", "generation_config.json",
                                                         "merges.txt", "model.safetensors", "special_tokens_map.json",
                                                         "tokenizer_config.json", "vocab.json"));
  const std::string file = Contents(target.path() / "model.safetensors");
  EXPECT_EQ(file.substr(8, 35), R"({"__metadata__":{"format":"pt"},"mo)");
  EXPECT_EQ(file.size() % 2, 0);
}

TEST(ConvertTest, TheIndexNamesEveryTensorsFile) {
  const TempDir target;
  const ConvertReport report =
      Convert({.source = ModelPath("preln_d64"), .target = target.path().string(), .max_shard_bytes = 300'000});
  const auto index = nlohmann::json::parse(Contents(target.path() / "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], report.bytes);
  const auto checkpoint = *OpenCheckpoint(target.path().string());
  for (const CheckpointTensor& tensor : checkpoint->tensors()) {
    EXPECT_EQ(index["weight_map"][tensor.name], tensor.file);
  }
}

TEST(ConvertTest, ConfigSaysWhatTheTensorsAre) {
  const TempDir target;
  Convert({.source = ModelPath("galactica_old_keys"), .target = target.path().string(), .dtype = DType::kF32});
  const auto config = nlohmann::json::parse(Contents(target.path() / "config.json"));
  EXPECT_EQ(config["enable_bias"], false);
  EXPECT_EQ(config["layer_norm_elementwise_affine"], false);
  EXPECT_EQ(config["torch_dtype"], "float32");
  EXPECT_EQ(config["activation_function"], "gelu");
}

TEST(ConvertTest, WidensExactlyAndNarrowsToTheNearest) {
  const TempDir wide, back;
  Convert({.source = ModelPath("untied_lm_head"), .target = wide.path().string(), .dtype = DType::kF32});
  Convert({.source = wide.path().string(), .target = back.path().string(), .dtype = DType::kF16});
  const auto before = *OpenCheckpoint(ModelPath("untied_lm_head")), after = *OpenCheckpoint(back.path().string());
  for (const CheckpointTensor& tensor : before->tensors()) {
    EXPECT_EQ(Bytes(*after->Find(tensor.name)), Bytes(tensor)) << tensor.name;
  }
  ExpectGolden(wide.path().string(), 1, LoadGoldenModel("untied_lm_head"));
}

// Killed in the middle: whole files stay, the others are written again.
TEST(ConvertTest, GoesOnWhereItStopped) {
  const TempDir target;
  const ConvertOptions options{
      .source = ModelPath("preln_d64"), .target = target.path().string(), .max_shard_bytes = 300'000};
  const ConvertReport whole = Convert(options);
  const fs::path second = target.path() / Files(target.path())[5];  // behind the first of the weights
  const std::string contents = Contents(second);
  ASSERT_THAT(second.string(), HasSubstr("model-00002-of-"));
  fs::remove(target.path() / "model.safetensors.index.json");
  fs::remove(second);
  const std::string partial = std::string(".").append(second.filename().string()).append(".partial");
  target.Write(partial, contents.substr(0, 100));

  const ConvertReport again = Convert(options);
  EXPECT_EQ(again.files_written, 1);
  EXPECT_EQ(again.files_kept, whole.files_written - 1);
  EXPECT_EQ(Contents(second), contents);
  EXPECT_FALSE(fs::exists(target.path() / partial));
}

// One that was downloaded again has the same header and may have other numbers.
TEST(ConvertTest, AChangedSourceIsConvertedAnew) {
  const TempDir source, target;
  fs::copy(ModelPath("preln_d64"), source.path(), fs::copy_options::recursive);
  const ConvertOptions options{.source = source.path().string(), .target = target.path().string()};
  EXPECT_EQ(Convert(options).files_written, 1);
  EXPECT_EQ(Convert(options).files_kept, 1);
  const fs::path stored = source.path() / "model.safetensors";
  std::string weights = Contents(stored);
  weights.back() = static_cast<char>(weights.back() ^ 1);
  source.Write("model.safetensors", weights);
  fs::last_write_time(stored, fs::last_write_time(stored) + std::chrono::seconds(1));
  EXPECT_EQ(Convert(options).files_written, 1);
  EXPECT_EQ(Convert(options).files_kept, 1);
  const auto before = *OpenCheckpoint(source.path().string()), after = *OpenCheckpoint(target.path().string());
  for (const CheckpointTensor& tensor : before->tensors()) {
    EXPECT_EQ(Bytes(tensor), Bytes(*after->Find(tensor.name))) << tensor.name;
  }
}

// A file of the right name and size may be of another conversion.
TEST(ConvertTest, KeepsOnlyItsOwnFiles) {
  const TempDir target;
  const auto convert = [&](DType dtype) {
    return Convert({.source = ModelPath("untied_lm_head"), .target = target.path().string(), .dtype = dtype});
  };
  EXPECT_EQ(convert(DType::kF16).files_written, 1);
  EXPECT_EQ(convert(DType::kF16).files_written, 0);
  EXPECT_EQ(convert(DType::kBF16).files_written, 1);
  EXPECT_EQ((*OpenCheckpoint(target.path().string()))->tensors()[0].view.dtype, DType::kBF16);

  std::string other = Contents(target.path() / "model.safetensors");
  other.replace(other.find("\"pt\""), 4, "\"tf\"");
  target.Write("model.safetensors", other);
  EXPECT_EQ(convert(DType::kBF16).files_written, 1);
}

TEST(ConvertTest, RefusesToMixModels) {
  const TempDir target;
  target.Write("pytorch_model.bin", "");
  const auto error = [](const ConvertOptions& options) {
    return std::string(ConvertModel(options).status().message());
  };
  EXPECT_THAT(error({.source = ModelPath("preln_d64"), .target = target.path().string()}),
              HasSubstr("already holds pytorch_model.bin"));
  EXPECT_THAT(error({.source = ModelPath("preln_d64"), .target = ModelPath("preln_d64")}),
              HasSubstr("is the model that is to be converted"));
}

TEST(ConvertTest, SaysWhatCannotBeWritten) {
  const auto error = [](const ConvertOptions& options) {
    return std::string(ConvertModel(options).status().message());
  };
  EXPECT_THAT(error({.source = ModelPath("preln_d64"), .target = "/proc/nowhere"}), HasSubstr("/proc/nowhere"));
  // An f32 model with a number that f16 does not have.
  const TempDir source, target;
  std::string weights = ReadTestData("golden/models/galactica_f32/model.safetensors");
  weights[weights.size() - 1] = '\x7e';
  source.Write("config.json", ReadTestData("golden/models/galactica_f32/config.json"));
  source.Write("model.safetensors", weights);
  EXPECT_THAT(error({.source = source.path().string(), .target = target.path().string(), .dtype = DType::kF16}),
              HasSubstr("beyond float16"));
}

}  // namespace
}  // namespace optserve
