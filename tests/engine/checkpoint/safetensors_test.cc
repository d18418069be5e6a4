#include "engine/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "tests/support/temp_dir.h"

// Broken files of many kinds are in tests/data/golden/corrupt, see corrupt_checkpoints_test.cc.

namespace optserve {
namespace {

using testing::HasSubstr;

std::string File(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  return file + header + data;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& contents) {
  const TempDir folder;
  folder.Write("model.safetensors", contents);
  return OpenCheckpoint(folder.path().string());
}

TEST(SafetensorsTest, GivesViewsOfTheMappedBytes) {
  const auto checkpoint = Open(File(R"({"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
                                    R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                                    R"("c":{"dtype":"F16","shape":[0,5],"data_offsets":[16,16]}})",
                                    "0123456789abcdef"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ASSERT_EQ((*checkpoint)->tensors().size(), 3);
  EXPECT_EQ((*checkpoint)->total_bytes(), 16);
  EXPECT_EQ((*checkpoint)->format(), "safetensors");
  EXPECT_EQ((*checkpoint)->source(), "model.safetensors");

  const TensorView a = (*checkpoint)->Find("a")->view;
  EXPECT_EQ(a.dtype, DType::kF32);
  EXPECT_EQ(a.rank, 1);  // a scalar
  EXPECT_EQ(a.dims[0], 1);
  EXPECT_EQ(std::memcmp(a.data, "0123", 4), 0);

  const TensorView b = (*checkpoint)->Find("b")->view;
  EXPECT_EQ(b.dtype, DType::kBF16);
  EXPECT_EQ(b.row_stride, 3);
  EXPECT_EQ(std::memcmp(b.Rows(1, 1).data, "abcdef", 6), 0);

  EXPECT_EQ((*checkpoint)->Find("c")->view.num_elements(), 0);
  EXPECT_EQ((*checkpoint)->Find("d"), nullptr);
}

TEST(SafetensorsTest, RefusesShapesThatCannotBeCounted) {
  // No rows of 2^80 columns: no bytes, but no view either.
  const std::string wide = R"({"w":{"dtype":"F32","shape":[0,1099511627776,1099511627776],"data_offsets":[0,0]}})";
  EXPECT_THAT(std::string(Open(File(wide, "")).status().message()), HasSubstr("tensor w: shape"));
  const std::string deep = R"({"w":{"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]}})";
  EXPECT_THAT(std::string(Open(File(deep, "0123")).status().message()), HasSubstr("5 dimensions"));
}

TEST(SafetensorsTest, NamesInMessagesStayOnOneLine) {
  const std::string header = R"({"a\nb":{"dtype":"F17","shape":[1],"data_offsets":[0,4]}})";
  EXPECT_THAT(std::string(Open(File(header, "0123")).status().message()), HasSubstr("tensor a\\x0ab: dtype is F17"));
}

TEST(SafetensorsTest, AFolderWithoutWeightsSaysWhatWasLookedFor) {
  const TempDir folder;
  const absl::Status status = OpenCheckpoint(folder.path().string()).status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors.index.json"));
}

}  // namespace
}  // namespace optserve
