#include "server/commands/model_path.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/server/config/fake_environment.h"

namespace optserve {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST(HuggingFaceCacheTest, MoreSpecificVariableWins) {
  EXPECT_EQ(HuggingFaceCache(FakeEnvironment({{"HF_HUB_CACHE", "/c"}, {"HF_HOME", "/h"}, {"HOME", "/u"}})), "/c");
  EXPECT_EQ(HuggingFaceCache(FakeEnvironment({{"HF_HOME", "/h"}, {"HOME", "/u"}})), "/h/hub");
  EXPECT_EQ(HuggingFaceCache(FakeEnvironment({{"HOME", "/u"}})), "/u/.cache/huggingface/hub");
  EXPECT_EQ(HuggingFaceCache(FakeEnvironment({{"HF_HUB_CACHE", ""}, {"HF_HOME", ""}, {"HOME", "/u"}})),
            "/u/.cache/huggingface/hub");
  EXPECT_EQ(HuggingFaceCache(FakeEnvironment({})), "");
}

class ResolveModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "optserve_model_path_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }

  void Write(const fs::path& file, std::string_view text) {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }

  fs::path root_;
};

TEST_F(ResolveModelTest, TakesADirectoryWithAConfig) {
  Write("model/config.json", "{}");
  const auto path = ResolveModel((root_ / "model").string(), root_);
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(*path, root_ / "model");
}

TEST_F(ResolveModelTest, RefusesWhatIsThereButIsNoModel) {
  Write("model/weights.bin", "");
  const auto no_config = ResolveModel((root_ / "model").string(), root_);
  EXPECT_EQ(no_config.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(no_config.status().message()), HasSubstr("config.json"));
  const auto file = ResolveModel((root_ / "model/weights.bin").string(), root_);
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("is not a directory"));
}

TEST_F(ResolveModelTest, FindsTheMainRevisionOfAName) {
  Write("models--facebook--opt-125m/refs/main", "c0ffee\n");
  Write("models--facebook--opt-125m/snapshots/c0ffee/config.json", "{}");
  Write("models--facebook--opt-125m/snapshots/0ld/config.json", "{}");
  const auto path = ResolveModel("facebook/opt-125m", root_);
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(*path, root_ / "models--facebook--opt-125m/snapshots/c0ffee");
}

TEST_F(ResolveModelTest, AnUnknownNameSaysHowToFetchIt) {
  const auto path = ResolveModel("facebook/opt-125m", root_);
  EXPECT_EQ(path.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(path.status().message()), HasSubstr("hf download facebook/opt-125m"));
}

TEST_F(ResolveModelTest, APathThatIsMissingIsNotTakenForAName) {
  for (const char* model : {"", "/no/such/model", "./nowhere", "../nowhere", "a/b/c", "a b", "a/.."}) {
    const auto path = ResolveModel(model, root_);
    EXPECT_EQ(path.status().code(), absl::StatusCode::kNotFound) << model;
    EXPECT_THAT(std::string(path.status().message()), HasSubstr("there is no directory")) << model;
  }
}

TEST_F(ResolveModelTest, ABrokenRevisionCannotLeadOutOfTheCache) {
  Write("models--a--b/snapshots/keep/config.json", "{}");
  Write("outside/config.json", "{}");
  for (const char* commit : {"missing", "../../outside", ".."}) {
    Write("models--a--b/refs/main", commit);
    const auto path = ResolveModel("a/b", root_);
    EXPECT_EQ(path.status().code(), absl::StatusCode::kFailedPrecondition) << commit;
    EXPECT_THAT(std::string(path.status().message()), HasSubstr("is broken")) << commit;
  }
}

TEST_F(ResolveModelTest, MetaseqsDownloadsNeedNoConfig) {
  Write("model/reshard-model_part-0.pt", "");
  EXPECT_EQ(*ResolveModel((root_ / "model").string(), root_), root_ / "model");
}

TEST_F(ResolveModelTest, ADirectoryWithoutAConfigWillDoIfOneIsGiven) {
  Write("model/pytorch_model.bin", "");
  EXPECT_FALSE(ResolveModel((root_ / "model").string(), root_).ok());
  EXPECT_EQ(*ResolveModel((root_ / "model").string(), root_, /*has_config=*/true), root_ / "model");
  EXPECT_FALSE(ResolveModel((root_ / "nothing").string(), root_, /*has_config=*/true).ok());
}

TEST_F(ResolveModelTest, ATokenizerThatIsNamedMustBeThere) {
  Write("elsewhere/vocab.json", "");
  Write("model/config.json", "");
  EXPECT_EQ(*ResolveTokenizer("", root_ / "model"), root_ / "model");
  EXPECT_EQ(*ResolveTokenizer((root_ / "elsewhere").string(), root_ / "model"), root_ / "elsewhere");
  const auto missing = ResolveTokenizer((root_ / "model").string(), root_ / "model");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ResolveModelTest, AModelIsCalledByItsDirectoryOrName) {
  Write("model/config.json", "{}");
  for (const char* spelling : {"model", "model/", "model/.", "model/../model"}) {
    EXPECT_EQ(ModelName((root_ / spelling).string()), "model") << spelling;
  }
  EXPECT_EQ(ModelName("facebook/opt-125m"), "facebook/opt-125m");
}

}  // namespace
}  // namespace optserve
