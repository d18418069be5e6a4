// A model that is cut into a file for each rank: those ranks read one file each and copy nothing, others read it too.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/rank_files.h"
#include "engine/checkpoint/tensor_region.h"
#include "engine/model/load_config.h"
#include "engine/model/opt_weights.h"
#include "engine/model/sharding.h"
#include "engine/tools/convert.h"
#include "engine/tools/verify.h"
#include "tests/engine/tools/expect_golden.h"
#include "tests/support/golden_models.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string ModelPath(const std::string& name) { return TestDataPath("golden/models/" + name).string(); }

ConvertReport ConvertFor(int32_t size, const std::string& source, const TempDir& target) {
  const absl::StatusOr<ConvertReport> report =
      ConvertModel({.source = source, .target = target.path().string(), .tensor_parallel_size = size});
  EXPECT_TRUE(report.ok()) << report.status();
  return report.value_or(ConvertReport());
}

std::vector<std::byte> Bytes(const CheckpointTensor& tensor) {
  std::vector<std::byte> bytes(tensor.view.num_bytes());
  CopyRegion(tensor, WholeOf(tensor), bytes.data());
  return bytes;
}

const CheckpointTensor* FindBare(const Checkpoint& checkpoint, const std::string& bare) {
  for (const char* prefix : {"", "model.", "model.decoder."}) {
    if (const CheckpointTensor* tensor = checkpoint.Find(prefix + bare)) return tensor;
  }
  return nullptr;
}

// Of a safetensors file: all but the header.
int64_t DataBytes(const fs::path& file) {
  uint64_t header_bytes = 0;
  std::ifstream(file, std::ios::binary).read(reinterpret_cast<char*>(&header_bytes), sizeof(header_bytes));
  return static_cast<int64_t>(fs::file_size(file) - sizeof(header_bytes) - header_bytes);
}

class ConvertForRanks : public testing::TestWithParam<std::tuple<std::string, int>> {
 protected:
  ConvertForRanks() : golden_(LoadGoldenModel(std::get<0>(GetParam()))), size_(std::get<1>(GetParam())) {
    config_ = OpenModel(golden_.directory)->config;
    divides_ = CheckTensorParallelSize(config_, size_).ok();
    if (divides_) ConvertFor(size_, golden_.directory, target_);
  }
  std::string target() const { return target_.path().string(); }

  GoldenModel golden_;
  int32_t size_;
  OptConfig config_;
  bool divides_ = false;
  TempDir target_;
};

TEST_P(ConvertForRanks, AnswersTheSameAtEveryTensorParallelSize) {
  if (!divides_) {
    const absl::Status refused =
        ConvertModel({.source = golden_.directory, .target = target(), .tensor_parallel_size = size_}).status();
    EXPECT_THAT(std::string(refused.message()), HasSubstr("sizes that do: 1"));
    EXPECT_TRUE(fs::is_empty(target()));
    return;
  }
  for (const int32_t size : {1, 2, 4}) {
    if (CheckTensorParallelSize(config_, size).ok()) ExpectGolden(target(), size, golden_);
  }
  EXPECT_TRUE(VerifyModel({.model_directory = target()})->problems.empty());
}

TEST_P(ConvertForRanks, ARankReadsItsFileFromBeginningToEndAndCopiesNothing) {
  if (!divides_) return;
  const OpenedModel model = *OpenModel(target());
  const OptTensors tensors = *OptTensors::Match(model.config, *model.checkpoint);
  for (int32_t rank = 0; rank < size_; ++rank) {
    const std::vector<ByteRegion> regions = BytesOfShard(model.config, tensors, {.rank = rank, .size = size_});
    const std::byte* at = regions[0].data;
    for (const ByteRegion& region : regions) {
      EXPECT_EQ(region.file, RankFileName(rank, size_));
      EXPECT_EQ(region.data, at);
      EXPECT_TRUE(region.rows == 1 || region.stride == region.row_bytes);
      at += region.num_bytes();
    }
    EXPECT_EQ(at - regions[0].data, DataBytes(target_.path() / RankFileName(rank, size_)));
  }
  for (const CheckpointTensor& tensor : model.checkpoint->tensors()) {
    EXPECT_TRUE(tensor.copies.empty() || std::ssize(tensor.copies) == size_);
    EXPECT_TRUE(tensor.tiles.empty() || std::ssize(tensor.tiles) == size_);
  }
}

TEST_P(ConvertForRanks, HoldsEveryBitOfTheSource) {
  if (!divides_) return;
  const auto source = *OpenCheckpoint(golden_.directory), result = *OpenCheckpoint(target());
  const TempDir back;
  ASSERT_TRUE(ConvertModel({.source = target(), .target = back.path().string()}).ok());
  const auto again = *OpenCheckpoint(back.path().string());
  for (const CheckpointTensor& tensor : result->tensors()) {
    const size_t behind_decoder = tensor.name.find("decoder.");
    const CheckpointTensor* before =
        FindBare(*source, behind_decoder == std::string::npos ? tensor.name : tensor.name.substr(behind_decoder));
    ASSERT_NE(before, nullptr) << tensor.name;
    EXPECT_EQ(Bytes(tensor), Bytes(*before)) << tensor.name;
    EXPECT_EQ(Bytes(tensor), Bytes(*again->Find(tensor.name))) << tensor.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, ConvertForRanks,
                         testing::Combine(testing::ValuesIn(GoldenModelNames({"safetensors", "bin", "pt"})),
                                          testing::Values(1, 2, 4)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_tp" + std::to_string(std::get<1>(info.param));
                         });

class RankFilesTest : public testing::Test {
 protected:
  RankFilesTest() { ConvertFor(2, ModelPath("preln_d64"), target_); }

  fs::path File(int32_t rank, int32_t size = 2) const { return target_.path() / RankFileName(rank, size); }
  std::string OpenError() const {
    const absl::Status status = OpenCheckpoint(target_.path().string()).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  }

  TempDir target_;
};

TEST_F(RankFilesTest, GoesOnWhereItStopped) {
  fs::remove(File(1));
  EXPECT_THAT(OpenError(), HasSubstr("model-rank-1-of-2.safetensors is missing: the conversion was interrupted"));
  target_.Write(".model-rank-1-of-2.safetensors.partial", "half");
  const ConvertReport again = ConvertFor(2, ModelPath("preln_d64"), target_);
  EXPECT_EQ(again.files_written, 1);
  EXPECT_EQ(again.files_kept, 1);
  EXPECT_TRUE(OpenCheckpoint(target_.path().string()).ok());
}

// Sizes and shapes of all ranks are the same, so that nothing else would tell.
TEST_F(RankFilesTest, AnotherRanksFileIsRefused) {
  fs::copy_file(File(0), File(1), fs::copy_options::overwrite_existing);
  EXPECT_THAT(OpenError(), HasSubstr("model-rank-1-of-2.safetensors: not the file of rank 1 of 2"));
}

TEST_F(RankFilesTest, FilesForDifferentNumbersOfRanksAreRefused) {
  target_.Write(RankFileName(0, 4), "");
  EXPECT_THAT(OpenError(), HasSubstr("files for different numbers of ranks"));
  const TempDir other;
  other.Write("model.safetensors", "");
  EXPECT_THAT(
      std::string(
          ConvertModel({.source = ModelPath("preln_d64"), .target = other.path().string(), .tensor_parallel_size = 2})
              .status()
              .message()),
      HasSubstr("already holds model.safetensors"));
}

TEST_F(RankFilesTest, PartsThatDoNotFitTogetherAreRefused) {
  const TempDir other;
  ASSERT_TRUE(ConvertModel({.source = ModelPath("preln_d64"),
                            .target = other.path().string(),
                            .dtype = DType::kF32,
                            .tensor_parallel_size = 2})
                  .ok());
  fs::copy_file(other.path() / RankFileName(1, 2), File(1), fs::copy_options::overwrite_existing);
  EXPECT_THAT(OpenError(), HasSubstr("of another shape or dtype than in model-rank-0-of-2.safetensors"));
}

// Of norms every file has a copy, and a plain load looks at one's own.
TEST_F(RankFilesTest, VerifyLooksAtEveryCopy) {
  const auto problems_with = [this](const std::string& last_bytes) {
    std::fstream file(File(1), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-2, std::ios::end);  // of final_layer_norm.bias of the last layer
    file << last_bytes;
    file.close();
    return VerifyModel({.model_directory = target_.path().string()})->problems;
  };
  EXPECT_THAT(problems_with(std::string("\x00\x7e", 2)),
              testing::Contains(testing::AllOf(HasSubstr("model-rank-1-of-2.safetensors: tensor"),
                                               HasSubstr("final_layer_norm.bias holds NaN"))));
  EXPECT_THAT(problems_with(std::string("\x12\x34", 2)),
              testing::ElementsAre(HasSubstr("final_layer_norm.bias is not what model-rank-0-of-2.safetensors says")));
}

TEST(RankFilesNamesTest, OnlyWholeSetsAreFound) {
  const auto find = [](const std::vector<std::string>& names) { return FindRankFiles(names).value_or(-1); };
  EXPECT_EQ(find({"config.json", "model-rank-0-of-2.safetensors", "model-rank-1-of-2.safetensors"}), 2);
  EXPECT_EQ(find({"model-rank-0-of-1.safetensors"}), 1);
  for (const char* name : {"model-rank-0-of-0.safetensors", "model-rank-1-of-1.safetensors",
                           "model-rank-00-of-1.safetensors", "model-rank--1-of-2.safetensors",
                           "model-rank-0-of-99999.safetensors", "model-rank-0-of-1.safetensors.bak", "model-rank-"}) {
    EXPECT_EQ(find({name}), std::nullopt) << name;
  }
  EXPECT_FALSE(FindRankFiles({"model-rank-1-of-2.safetensors"}).ok());
}

}  // namespace
}  // namespace optserve
