// Files of torch.save that are right but unusual, or wrong in ways that the corrupt checkpoints of tests/data do not
// show.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/zip_directory.h"
#include "tests/support/temp_dir.h"
#include "tests/support/torch_file.h"

namespace optserve {
namespace {

using testing::HasSubstr;

std::string Floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenFile(const std::string& contents) {
  const TempDir folder;
  folder.Write("pytorch_model.bin", contents);
  return OpenCheckpoint(folder.path().string());
}

// A file with one tensor, "w", of eight floats in storage "0".
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenTensor(const std::string& tensor) {
  return OpenFile(TorchZip(pickle::Dict({{"w", tensor}}), {Floats({0, 1, 2, 3, 4, 5, 6, 7})}));
}
std::string ErrorOfTensor(const std::string& tensor) { return std::string(OpenTensor(tensor).status().message()); }

// Mapped tensors are only as aligned as the file stores them.
float FloatAt(const TensorView& view, int64_t row, int64_t column) {
  float value;
  std::memcpy(&value, view.Rows(row, 1).as<std::byte>() + column * static_cast<int64_t>(sizeof(float)), sizeof(value));
  return value;
}

const std::string kStorage = pickle::Storage("FloatStorage", "0", 8);

TEST(TorchZipTest, GivesViewsOfTheMappedBytes) {
  const auto checkpoint = OpenTensor(pickle::Tensor(kStorage, 2, {2, 3}, {3, 1}));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const TensorView w = (*checkpoint)->Find("w")->view;
  EXPECT_EQ(w.dtype, DType::kF32);
  EXPECT_EQ(FloatAt(w, 1, 0), 5.0f);
  EXPECT_EQ((*checkpoint)->format(), "torch zip");
}

TEST(TorchZipTest, RowsMayLieApart) {
  const auto checkpoint = OpenTensor(pickle::Tensor(kStorage, 1, {2, 2}, {4, 1}));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const TensorView w = (*checkpoint)->Find("w")->view;
  EXPECT_EQ(w.row_stride, 4);
  EXPECT_EQ(FloatAt(w, 1, 1), 6.0f);
}

TEST(TorchZipTest, StridesOfSingleRowsAndEmptyTensorsSayNothing) {
  EXPECT_TRUE(OpenTensor(pickle::Tensor(kStorage, 0, {1, 8}, {99, 1})).ok());
  EXPECT_TRUE(OpenTensor(pickle::Tensor(kStorage, 0, {8, 1}, {1, 99})).ok());
  EXPECT_TRUE(OpenTensor(pickle::Tensor(kStorage, 8, {0}, {1})).ok());
  EXPECT_TRUE(OpenTensor(pickle::Tensor(kStorage, 7, {}, {})).ok());
}

TEST(TorchZipTest, ParametersAreTheirTensors) {
  const std::string tensor = pickle::Tensor(kStorage, 0, {8}, {1});
  const std::string hooks = pickle::Call(pickle::Global("collections", "OrderedDict"), {});
  EXPECT_TRUE(
      OpenTensor(pickle::Call(pickle::Global("torch._utils", "_rebuild_parameter"), {tensor, "\x88", hooks})).ok());
}

TEST(TorchZipTest, RefusesWhatIsNoTensor) {
  EXPECT_THAT(ErrorOfTensor(pickle::Int(5)), HasSubstr("pytorch_model.bin: tensor w: is something else, not a tensor"));
  EXPECT_THAT(ErrorOfTensor(pickle::Call(pickle::Global("torch", "Size"), {})), HasSubstr("a call of torch.Size"));
  EXPECT_THAT(ErrorOfTensor(pickle::Tensor(pickle::Storage("LongStorage", "0", 4), 0, {4}, {1})),
              HasSubstr("stored as torch.LongStorage"));
  EXPECT_THAT(ErrorOfTensor(pickle::Tensor(pickle::Int(1), 0, {4}, {1})), HasSubstr("not a view of a storage"));
  EXPECT_THAT(ErrorOfTensor(pickle::Tensor(pickle::Storage("FloatStorage", "../0", 8), 0, {8}, {1})),
              HasSubstr("there is no data/../0"));
}

TEST(TorchZipTest, RefusesViewsThatReachOut) {
  EXPECT_THAT(ErrorOfTensor(pickle::Tensor(kStorage, 1, {8}, {1})), HasSubstr("beyond its storage"));
  EXPECT_THAT(ErrorOfTensor(pickle::Tensor(kStorage, 0, {3, 3}, {3, 1})), HasSubstr("beyond its storage"));
  EXPECT_THAT(ErrorOfTensor(pickle::Tensor(kStorage, 0, {2, 4}, {int64_t{1} << 62, 1})),
              HasSubstr("beyond its storage"));
  EXPECT_THAT(ErrorOfTensor(pickle::Tensor(kStorage, int64_t{1} << 62, {1}, {1})), HasSubstr("beyond its storage"));
  EXPECT_THAT(ErrorOfTensor(pickle::Tensor(kStorage, 0, {4, 2}, {1, 4})), HasSubstr("transposed"));
  EXPECT_THAT(ErrorOfTensor(pickle::Tensor(kStorage, 0, {4, 2}, {1, 1})), HasSubstr("rows that share elements"));
  EXPECT_THAT(ErrorOfTensor(pickle::Tensor(kStorage, 0, {0, int64_t{1} << 40, int64_t{1} << 40}, {0, 0, 1})),
              testing::AnyOf(HasSubstr("more elements than can be counted"), HasSubstr("transposed")));
}

TEST(TorchZipTest, TheSameNameTwiceIsRefused) {
  const std::string tensor = pickle::Tensor(kStorage, 0, {8}, {1});
  const auto checkpoint =
      OpenFile(TorchZip(pickle::Dict({{"w", tensor}, {"w", tensor}}), {Floats({0, 1, 2, 3, 4, 5, 6, 7})}));
  EXPECT_THAT(std::string(checkpoint.status().message()), HasSubstr("tensor w is in"));
}

// Known ways past scanners, which look at a pickle by its file's name: here its content decides, and it is refused for
// what it holds whatever it is called.
TEST(TorchZipTest, APickleIsFoundUnderAnyName) {
  const std::string system = pickle::Call(pickle::Global("posix", "system"), {pickle::Text("echo boo")});
  const std::string evil = TorchZip(pickle::Dict({{"w", system}}), {});
  for (const char* name : {"model.safetensors", "pytorch_model.bin"}) {
    const TempDir folder;
    folder.Write(name, evil);
    EXPECT_THAT(std::string(OpenCheckpoint(folder.path().string()).status().message()), HasSubstr("posix.system"));
  }
  // A zip in a zip is no checkpoint, and nobody looks for one in there.
  EXPECT_THAT(
      std::string(
          OpenFile(ZipFile{.members = {{.name = "archive/inner.zip", .bytes = evil}}}.Write()).status().message()),
      HasSubstr("data.pkl"));
}

TEST(TorchZipTest, NamesOfAnotherFormatDoNotMatter) {
  const TempDir folder;
  folder.Write("model.safetensors", TorchZip(pickle::Dict({{"w", pickle::Tensor(kStorage, 0, {8}, {1})}}),
                                             {Floats({0, 1, 2, 3, 4, 5, 6, 7})}));
  EXPECT_EQ((*OpenCheckpoint(folder.path().string()))->format(), "torch zip");
}

absl::StatusOr<std::vector<ZipMember>> ReadZip(const std::string& file) {
  return ReadZipDirectory(std::as_bytes(std::span(file.data(), file.size())));
}

TEST(ZipDirectoryTest, ReadsBothKindsOfEndRecord) {
  for (const bool wide : {false, true}) {
    const ZipFile zip{.members = {{.name = "a/b", .bytes = "hello"}, {.name = "a/c", .bytes = ""}},
                      .with_64_bit_end = wide};
    const std::string file = zip.Write();
    const auto members = ReadZip(file);
    ASSERT_TRUE(members.ok()) << members.status();
    ASSERT_EQ(members->size(), 2);
    EXPECT_EQ((*members)[0].name, "a/b");
    EXPECT_EQ(std::memcmp((*members)[0].bytes.data(), "hello", 5), 0);
    EXPECT_EQ((*members)[1].bytes.size(), 0);
  }
}

TEST(ZipDirectoryTest, SaysWhatIsWrongWithAMember) {
  const auto problem = [](const ZipFile::Member& member) {
    const std::string file = ZipFile{.members = {member}}.Write();
    return (*ReadZip(file))[0].problem;
  };
  EXPECT_EQ(problem({.name = "a/b", .bytes = "x"}), "");
  EXPECT_THAT(problem({.name = "a/b", .bytes = "x", .method = 8}), HasSubstr("compressed"));
  EXPECT_THAT(problem({.name = "a/b", .bytes = "x", .flags = 1}), HasSubstr("encrypted"));
  EXPECT_THAT(problem({.name = "a/b", .bytes = "x", .local_name = "a/c"}), HasSubstr("described differently"));
  // A scanner that believes one header passes over what a reader of the other takes.
  EXPECT_THAT(problem({.name = "a/b", .bytes = "x", .local_method = 8}), HasSubstr("described differently"));
  EXPECT_THAT(problem({.name = "a/b", .bytes = "x", .local_flags = 1}), HasSubstr("described differently"));
  EXPECT_THAT(problem({.name = "a/b", .bytes = "x", .flags = 1, .local_flags = 0}), HasSubstr("encrypted"));
}

// Members within another: two readers may each find their own. The second does not overlap its neighbour.
TEST(ZipDirectoryTest, SaysWhichMembersShareBytes) {
  const std::string inner = ZipFile{.members = {{.name = "a/c", .bytes = "x"}, {.name = "a/d", .bytes = "y"}}}.Write();
  const int64_t header = 30 + 3;  // and name
  const std::string file = ZipFile{.members = {{.name = "a/b", .bytes = inner},
                                               {.name = "a/c", .bytes = "x", .header_at = header},
                                               {.name = "a/d", .bytes = "y", .header_at = header + header + 1}}}
                               .Write();
  const auto members = *ReadZip(file);
  EXPECT_EQ(members[0].problem, "");
  EXPECT_THAT(members[1].problem, HasSubstr("shares bytes with a/b"));
  EXPECT_THAT(members[2].problem, HasSubstr("shares bytes with a/b"));
}

TEST(ZipDirectoryTest, EveryCutOffFileIsRefused) {
  const std::string file = ZipFile{.members = {{.name = "a/b", .bytes = "hello"}}, .with_64_bit_end = true}.Write();
  for (size_t size = 0; size < file.size(); ++size) EXPECT_FALSE(ReadZip(file.substr(0, size)).ok()) << size;
  EXPECT_FALSE(ReadZip(file + "x").ok());
}

// Whatever single byte changes, reading ends with an answer, and every member lies within the file.
TEST(ZipDirectoryTest, SurvivesAnyChangedByte) {
  const std::string file =
      ZipFile{.members = {{.name = "a/b", .bytes = "hello"}, {.name = "a/c", .bytes = "x"}}, .with_64_bit_end = true}
          .Write();
  for (size_t at = 0; at < file.size(); ++at) {
    for (const int value : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
      std::string changed = file;
      changed[at] = static_cast<char>(value);
      const auto members = ReadZip(changed);
      if (!members.ok()) continue;
      for (const ZipMember& member : *members) {
        if (!member.problem.empty()) continue;
        const auto* begin = reinterpret_cast<const char*>(member.bytes.data());
        EXPECT_TRUE(begin >= changed.data() && begin + member.bytes.size() <= changed.data() + changed.size());
      }
    }
  }
}

}  // namespace
}  // namespace optserve
