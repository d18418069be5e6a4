#include "engine/tools/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/checkpoint/file_hash.h"
#include "tests/support/golden_models.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::string Hash(const std::string& text, HashKind kind) {
  return *HashOf(std::as_bytes(std::span(text.data(), text.size())), kind);
}

TEST(FileHashTest, MatchesPublishedVectors) {
  EXPECT_EQ(Hash("abc", HashKind::kSha256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Hash("", HashKind::kSha256), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Hash("abc", HashKind::kMd5), "900150983cd24fb0d6963f7d28e17f72");
}

VerifyReport Verify(const VerifyOptions& options) {
  const absl::StatusOr<VerifyReport> report = VerifyModel(options);
  EXPECT_TRUE(report.ok()) << report.status();
  return *report;
}

TEST(VerifyTest, EveryGoldenModelIsWhole) {
  for (const std::string& name : GoldenModelNames({"safetensors", "bin", "pt"})) {
    SCOPED_TRACE(name);
    const VerifyReport report = Verify({.model_directory = TestDataPath("golden/models/" + name).string()});
    EXPECT_THAT(report.problems, IsEmpty());
    EXPECT_GE(report.tensors, 14);
  }
}

TEST(VerifyTest, EveryCorruptCheckpointIsFoundOut) {
  const auto manifest = nlohmann::json::parse(ReadTestData("golden/corrupt/manifest.json"));
  for (const auto& entry : manifest["entries"]) {
    SCOPED_TRACE(entry["path"].get<std::string>());
    const TempDir folder;
    for (const auto& [name, source] : entry["files"].items()) {
      folder.Write(name, ReadTestData(TestDataPath("golden/corrupt/" + source.get<std::string>())));
    }
    const bool clean = Verify({.model_directory = folder.path().string()}).problems.empty();
    const auto expect = entry["expect"].get<std::string>();
    if (expect == "load") {
      EXPECT_TRUE(clean);
    } else if (expect == "refuse") {
      EXPECT_FALSE(clean);
    }
  }
}

TEST(VerifyTest, ReportsAllProblemsNotOnlyTheFirst) {
  const TempDir folder;
  folder.Write("config.json", ReadTestData("golden/corrupt/st_missing_layer.config.json"));
  folder.Write("model.safetensors", ReadTestData("golden/corrupt/st_nan.model.safetensors"));
  const VerifyReport report = Verify({.model_directory = folder.path().string()});
  EXPECT_GT(report.problems.size(), 10);  // the second layer's tensors
  EXPECT_THAT(report.problems, testing::Contains(HasSubstr("layers.1.fc1.weight is missing")));
  EXPECT_THAT(report.problems, testing::Contains(HasSubstr("layers.0.fc1.weight holds NaN or infinity")));
}

// A model in a cache as Hugging Face lays it out.
class VerifyCacheTest : public testing::Test {
 protected:
  VerifyCacheTest() {
    root_.Write("snapshots/1/config.json", ReadTestData("golden/corrupt/ok_plain.config.json"));
    weights_ = ReadTestData("golden/corrupt/ok_plain.model.safetensors");
    AddBlob(Hash(weights_, HashKind::kSha256), weights_);
  }
  void AddBlob(const std::string& name, const std::string& contents) {
    root_.Write("blobs/" + name, contents);
    std::filesystem::remove(root_.path() / "snapshots/1/model.safetensors");
    std::filesystem::create_symlink("../../blobs/" + name, root_.path() / "snapshots/1/model.safetensors");
  }
  VerifyReport VerifySnapshot(const std::string& checksum_file = "") {
    return Verify({.model_directory = (root_.path() / "snapshots/1").string(), .checksum_file = checksum_file});
  }

  TempDir root_;
  std::string weights_;
};

TEST_F(VerifyCacheTest, ComparesFilesWithTheirNamesInTheCache) {
  const VerifyReport whole = VerifySnapshot();
  EXPECT_THAT(whole.problems, IsEmpty());
  EXPECT_EQ(whole.checksums, 1);

  std::string damaged = weights_;
  damaged[damaged.size() - 1] ^= 1;  // still a number
  AddBlob(Hash(weights_, HashKind::kSha256), damaged);
  EXPECT_THAT(VerifySnapshot().problems, ElementsAre(HasSubstr("model.safetensors: its SHA-256 is")));
}

TEST_F(VerifyCacheTest, ComparesFilesWithAList) {
  const auto problems = [&](const std::string& list) {
    root_.Write("list", list);
    return VerifySnapshot((root_.path() / "list").string()).problems;
  };
  const std::string sha256 = Hash(weights_, HashKind::kSha256), md5 = Hash(weights_, HashKind::kMd5);
  EXPECT_THAT(problems(sha256 + "  model.safetensors\n"), IsEmpty());
  EXPECT_THAT(problems(md5 + " *some/where/model.safetensors\n"), IsEmpty());
  EXPECT_THAT(problems("filename,md5\nmodel.safetensors," + md5 + "\n"), IsEmpty());
  EXPECT_THAT(problems(std::string(64, '0') + "  model.safetensors\n"), ElementsAre(HasSubstr("its SHA-256 is")));
  EXPECT_THAT(problems(md5 + "  absent.bin\n"), ElementsAre(HasSubstr("absent.bin")));
}

TEST_F(VerifyCacheTest, AListWithoutChecksumsIsAMistake) {
  root_.Write("list", "nothing here\n");
  const std::string snapshot = (root_.path() / "snapshots/1").string();
  EXPECT_FALSE(VerifyModel({.model_directory = snapshot, .checksum_file = (root_.path() / "list").string()}).ok());
  EXPECT_FALSE(VerifyModel({.model_directory = snapshot, .checksum_file = "/nowhere"}).ok());
}

}  // namespace
}  // namespace optserve
