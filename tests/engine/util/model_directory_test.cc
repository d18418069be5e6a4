#include "engine/util/model_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/temp_dir.h"

namespace optserve {
namespace {

using testing::HasSubstr;

std::string Contents(const MappedFile& file) {
  return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
}

// A cache as Hugging Face lays it out, and a secret beside it.
class ModelDirectoryTest : public testing::Test {
 protected:
  ModelDirectoryTest() {
    root_.Write("models--facebook--opt/blobs/abc", "blob");
    root_.Write("models--facebook--opt/snapshots/1/plain", "plain");
    root_.Write("secret", "secret");
    snapshot_ = root_.path() / "models--facebook--opt/snapshots/1";
  }

  void Link(const std::string& name, const std::string& target) {
    std::filesystem::create_symlink(target, snapshot_ / name);
  }
  absl::StatusOr<std::unique_ptr<MappedFile>> Map(std::string_view name) {
    absl::StatusOr<ModelDirectory> directory = ModelDirectory::Open(snapshot_.string());
    if (!directory.ok()) return directory.status();
    return directory->Map(name);
  }

  TempDir root_;
  std::filesystem::path snapshot_;
};

TEST_F(ModelDirectoryTest, MapsFilesAndTheLinksOfTheHuggingFaceCache) {
  Link("linked", "../../blobs/abc");
  EXPECT_EQ(Contents(**Map("plain")), "plain");
  EXPECT_EQ(Contents(**Map("linked")), "blob");
  EXPECT_EQ((*Map("linked"))->name(), "linked");
}

TEST_F(ModelDirectoryTest, FollowsNoOtherLink) {
  std::filesystem::create_symlink("../../../secret", root_.path() / "models--facebook--opt/blobs/evil");
  Link("absolute", "/etc/hostname");
  Link("out", "../../../secret");
  Link("sideways", "plain");
  Link("climbing", "../../blobs/../../secret");
  Link("twice", "../../blobs/evil");
  for (const char* name : {"absolute", "out", "sideways", "climbing", "twice"}) {
    const absl::Status status = Map(name).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << name << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
}

TEST_F(ModelDirectoryTest, RefusesNamesThatLeadOut) {
  for (const std::string& name :
       {std::string("../../../secret"), std::string("/etc/hostname"), std::string(".."), std::string("."),
        std::string(), std::string("plain\0x", 7), std::string("a\\b"), std::string(300, 'a')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Map(name).status())) << name;
    EXPECT_FALSE(IsBareFileName(name)) << name;
  }
}

TEST_F(ModelDirectoryTest, RefusesWhatIsNotARegularFileWithoutWaiting) {
  ASSERT_EQ(mkfifo((snapshot_ / "fifo").c_str(), 0600), 0);
  std::filesystem::create_directory(snapshot_ / "folder");
  EXPECT_THAT(std::string(Map("fifo").status().message()), HasSubstr("fifo: not a regular file"));
  EXPECT_THAT(std::string(Map("folder").status().message()), HasSubstr("folder: not a regular file"));
}

TEST_F(ModelDirectoryTest, TellsWhatIsNotThere) {
  EXPECT_TRUE(absl::IsNotFound(Map("nothing").status()));
  EXPECT_TRUE(absl::IsNotFound(ModelDirectory::Open((snapshot_ / "nowhere").string()).status()));
  EXPECT_FALSE(ModelDirectory::Open((snapshot_ / "plain").string()).ok());
}

TEST_F(ModelDirectoryTest, ReadsSmallFilesWithALimit) {
  const ModelDirectory directory = *ModelDirectory::Open(snapshot_.string());
  EXPECT_EQ(*directory.Read("plain", 5), "plain");
  EXPECT_TRUE(absl::IsInvalidArgument(directory.Read("plain", 4).status()));
}

TEST_F(ModelDirectoryTest, MapsAnEmptyFile) {
  root_.Write("models--facebook--opt/snapshots/1/empty", "");
  EXPECT_EQ(Contents(**Map("empty")), "");
}

TEST_F(ModelDirectoryTest, ListsNamesInOrder) {
  root_.Write("models--facebook--opt/snapshots/1/a", "");
  const ModelDirectory directory = *ModelDirectory::Open(snapshot_.string());
  EXPECT_THAT(directory.List(), testing::ElementsAre("a", "plain"));
}

TEST(PrintableTest, EscapesAndCuts) {
  EXPECT_EQ(Printable("layers.0\n\xff"), "layers.0\\x0a\\xff");
  EXPECT_EQ(Printable(std::string(500, 'a')), std::string(200, 'a') + "...");
}

}  // namespace
}  // namespace optserve
