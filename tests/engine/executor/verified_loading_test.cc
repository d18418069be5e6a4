// --verify: a model loads only if `optserve verify` would find it whole.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/file_hash.h"
#include "engine/executor/executor.h"
#include "engine/executor/load_problems.h"
#include "engine/tools/verify.h"
#include "tests/support/golden_models.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

absl::Status Load(const std::string& directory, int32_t size, bool verify) {
  absl::StatusOr<std::unique_ptr<Executor>> executor = MakeLocalExecutor(
      {.model_path = directory, .tensor_parallel_size = size, .max_num_seqs = 2, .num_threads = 1, .verify = verify});
  if (!executor.ok()) return executor.status();
  return (*executor)->Start(nullptr).status();
}

std::string ErrorOf(const std::string& directory, int32_t size = 1) {
  const absl::Status status = Load(directory, size, /*verify=*/true);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

// A golden model with 16-bit weights in one safetensors file, to be damaged.
class VerifiedLoading : public testing::Test {
 protected:
  VerifiedLoading() { Lay("preln_d64"); }
  void Lay(const std::string& model) {
    root_.Write("config.json", ReadTestData("golden/models/" + model + "/config.json"));
    weights_ = ReadTestData("golden/models/" + model + "/model.safetensors");
    Write();
  }
  void Write() { root_.Write("model.safetensors", weights_); }

  // Sets number `index` of a tensor, counted from its end where negative.
  void Set(const std::string& name, int64_t index, uint16_t bits) {
    const auto checkpoint = *OpenCheckpoint(root_.path().string());
    const CheckpointTensor& tensor = *checkpoint->Find(name);
    const CheckpointTensor* first = &checkpoint->tensors()[0];
    for (const CheckpointTensor& other : checkpoint->tensors()) {
      if (other.view.data < first->view.data) first = &other;
    }
    const int64_t from_first = tensor.view.as<std::byte>() - first->view.as<std::byte>();
    const auto header_bytes = static_cast<int64_t>(weights_.size()) - checkpoint->total_bytes();
    const int64_t element = index < 0 ? tensor.view.num_elements() + index : index;
    weights_[header_bytes + from_first + 2 * element] = static_cast<char>(bits & 0xff);
    weights_[header_bytes + from_first + 2 * element + 1] = static_cast<char>(bits >> 8);
    Write();
  }

  std::string directory() const { return root_.path().string(); }

  TempDir root_;
  std::string weights_;
};

constexpr uint16_t kNan = 0x7fc0;   // f16 and bf16
constexpr uint16_t kHuge = 0x7bff;  // 65504 in f16

TEST_F(VerifiedLoading, AWholeModelLoads) {
  for (const int32_t size : {1, 2, 4}) EXPECT_TRUE(Load(directory(), size, true).ok());
  for (const std::string& name : GoldenModelNames({"safetensors", "bin", "pt"})) {
    const absl::Status status = Load(TestDataPath("golden/models/" + name).string(), 1, true);
    EXPECT_TRUE(status.ok()) << name << ": " << status;
  }
}

TEST_F(VerifiedLoading, FindsDamageWhicheverRankHasIt) {
  Set("model.decoder.layers.1.fc1.weight", -1, kNan);
  EXPECT_TRUE(Load(directory(), 1, /*verify=*/false).ok());  // a plain load does not look
  for (const int32_t size : {1, 2, 4}) {
    EXPECT_EQ(
        ErrorOf(directory(), size),
        "model.safetensors: tensor model.decoder.layers.1.fc1.weight holds NaN or infinity at row 63, column 255");
  }
}

TEST_F(VerifiedLoading, SaysAllThatIsWrongInOneLineAndEachOnce) {
  Set("model.decoder.layers.0.fc2.bias", 0, kNan);  // every rank has it
  Set("model.decoder.layers.1.fc2.weight", 5, kHuge);
  Set("model.decoder.embed_tokens.weight", -1, kNan);
  const std::string error = ErrorOf(directory(), 4);
  EXPECT_THAT(error,
              testing::AllOf(HasSubstr("layers.0.fc2.bias holds NaN"), HasSubstr("embed_tokens.weight holds NaN"),
                             HasSubstr("layers.1.fc2.weight holds 65504; no trained OPT")));
  EXPECT_EQ(error.find("fc2.bias"), error.rfind("fc2.bias"));
  EXPECT_EQ(error.find('\n'), std::string::npos);
}

// The head of a model with tied embeddings is in this file, but is not loaded.
TEST_F(VerifiedLoading, LooksAtTensorsThatNoRankLoads) {
  Lay("noprefix_lmhead_bf16");
  Set("lm_head.weight", 7, kNan);
  const std::string problem = "model.safetensors: tensor lm_head.weight holds NaN or infinity at row 0, column 7";
  EXPECT_THAT(VerifyModel({.model_directory = directory()})->problems, testing::ElementsAre(problem));
  for (const int32_t size : {1, 2}) EXPECT_EQ(ErrorOf(directory(), size), problem);
  EXPECT_TRUE(Load(directory(), 1, /*verify=*/false).ok());
}

// A number that is wrong, but a number: only the file's name in the cache tells.
TEST_F(VerifiedLoading, ComparesFilesWithTheirNamesInTheHuggingFaceCache) {
  const std::string sha256 = *HashOf(std::as_bytes(std::span(weights_.data(), weights_.size())), HashKind::kSha256);
  const TempDir cache;
  cache.Write("snapshots/1/config.json", ReadTestData("golden/models/preln_d64/config.json"));
  cache.Write("blobs/" + sha256, weights_);
  fs::create_symlink("../../blobs/" + sha256, cache.path() / "snapshots/1/model.safetensors");
  const std::string snapshot = (cache.path() / "snapshots/1").string();
  EXPECT_TRUE(Load(snapshot, 2, true).ok());
  weights_.back() ^= 1;
  cache.Write("blobs/" + sha256, weights_);
  EXPECT_TRUE(Load(snapshot, 2, false).ok());
  EXPECT_THAT(ErrorOf(snapshot), HasSubstr("model.safetensors: its SHA-256 is"));
}

TEST(LoadProblemsTest, ManyProblemsAreCounted) {
  LoadProblems problems;
  EXPECT_TRUE(problems.Summary().ok());
  for (int i = 100; i < 125; ++i) problems.Add("problem " + std::to_string(i));
  const std::string summary(problems.Summary().message());
  EXPECT_THAT(summary, testing::StartsWith("problem 100; problem 101; "));
  EXPECT_THAT(summary, testing::EndsWith("problem 119; and 5 problems more, which optserve verify lists"));
}

}  // namespace
}  // namespace optserve
