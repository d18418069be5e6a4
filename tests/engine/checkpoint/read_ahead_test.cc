#include "engine/checkpoint/read_ahead.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "engine/checkpoint/zip_directory.h"
#include "engine/util/model_directory.h"
#include "tests/support/temp_dir.h"
#include "tests/support/torch_file.h"

namespace optserve {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

class ReadAheadTest : public testing::Test {
 protected:
  const MappedFile& Map(int64_t bytes) {
    folder_.Write("weights", std::string(static_cast<size_t>(bytes), 'x'));
    file_ = *ModelDirectory::Open(folder_.path().string())->Map("weights");
    return *file_;
  }

  TempDir folder_;
  std::unique_ptr<MappedFile> file_;
};

// How many pages of the range this process can read without a fault.
int64_t PresentPages(const std::byte* data, int64_t bytes) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  const auto first = reinterpret_cast<uintptr_t>(data) / static_cast<uintptr_t>(page);
  std::vector<uint64_t> entries(static_cast<size_t>((bytes + page - 1) / page));
  const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  EXPECT_GE(fd, 0);
  const auto size = static_cast<ssize_t>(entries.size() * sizeof(uint64_t));
  EXPECT_EQ(pread(fd, entries.data(), static_cast<size_t>(size), static_cast<off_t>(first * sizeof(uint64_t))), size);
  close(fd);
  int64_t present = 0;
  for (const uint64_t entry : entries) present += static_cast<int64_t>(entry >> 63);
  return present;
}

TEST_F(ReadAheadTest, PagesAreThereWithoutAFaultAfterWaiting) {
  const std::byte* data = Map(24 * kMiB).bytes().data();
  const int64_t page = sysconf(_SC_PAGESIZE);
  EXPECT_EQ(PresentPages(data, 24 * kMiB), 0);
  std::atomic<int64_t> read_bytes = 0;
  ReadAhead read({{.data = data + 100, .row_bytes = 9 * kMiB, .file = "weights"},
                  {.data = data + 12 * kMiB, .row_bytes = page, .rows = 100, .stride = 3 * page, .file = "weights"}},
                 {.progress = [&](int64_t bytes) { read_bytes += bytes; }});
  ASSERT_TRUE(read.Wait(1).ok());
  EXPECT_EQ(PresentPages(data, 9 * kMiB + page), 9 * kMiB / page + 1);
  ASSERT_TRUE(read.Wait(2).ok());
  for (int64_t row = 0; row < 100; ++row) EXPECT_EQ(PresentPages(data + 12 * kMiB + row * 3 * page, page), 1);
  EXPECT_EQ(read_bytes, 9 * kMiB + 100 * page);
  // Far from what was asked for, nothing was read.
  EXPECT_EQ(PresentPages(data + 16 * kMiB, 8 * kMiB), 0);
}

TEST_F(ReadAheadTest, ReadersStayWithinTheWindow) {
  const std::byte* data = Map(64 * kMiB).bytes().data();
  std::vector<ByteRegion> regions;
  for (int64_t i = 0; i < 64; ++i) regions.push_back({.data = data + i * kMiB, .row_bytes = kMiB, .file = "weights"});
  std::atomic<int64_t> read_bytes = 0;
  ReadAhead read(regions,
                 {.num_threads = 3, .window_bytes = 4 * kMiB, .progress = [&](int64_t n) { read_bytes += n; }});
  for (size_t i = 1; i <= 64; ++i) {
    ASSERT_TRUE(read.Wait(i).ok());
    EXPECT_GE(read_bytes, static_cast<int64_t>(i) * kMiB);
    EXPECT_LE(read_bytes, static_cast<int64_t>(i + 4) * kMiB);
  }
}

TEST_F(ReadAheadTest, AFileThatHasBecomeShorterIsAnErrorThatNamesIt) {
  const std::byte* data = Map(8 * kMiB).bytes().data();
  std::filesystem::resize_file(folder_.path() / "weights", kMiB);
  ReadAhead read({{.data = data, .row_bytes = kMiB, .file = "first"},
                  {.data = data + kMiB, .row_bytes = 7 * kMiB, .file = "weights"}},
                 {.num_threads = 1});
  const absl::Status status = read.Wait(2);
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("weights: cannot be read"));
}

TEST_F(ReadAheadTest, MayBeLeftBeforeItsEnd) {
  const std::byte* data = Map(16 * kMiB).bytes().data();
  for (int i = 0; i < 20; ++i) {
    ReadAhead read({{.data = data, .row_bytes = 16 * kMiB, .file = "weights"}}, {.window_bytes = kMiB});
  }
  ReadAhead nothing({}, {});
  EXPECT_TRUE(nothing.Wait(0).ok());
}

// How many pages of a mapped file are in memory, this process's or not.
int64_t CachedPages(std::span<const std::byte> file) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((file.size() + page - 1) / page);
  EXPECT_EQ(mincore(const_cast<std::byte*>(file.data()), file.size(), pages.data()), 0);
  return std::count_if(pages.begin(), pages.end(), [](unsigned char each) { return (each & 1) != 0; });
}

// A page fault in a cold file reads 128 KiB around it or, as the disk is set up, several MiB; and each member has a
// header far from the next one's. The file's end is read by faults: the directory is there.
TEST(StartReadingTest, OpeningAColdZipReadsItsHeadersAndNotWhatLiesBetween) {
  ZipFile zip;
  for (int i = 0; i < 100; ++i) {
    zip.members.push_back({.name = fmt::format("archive/data/{}", i), .bytes = std::string(kMiB / 4, 'x')});
  }
  const TempDir folder(std::filesystem::current_path());  // on a disk, which a temporary folder may not be
  folder.Write("weights", zip.Write());
  const int fd = open((folder.path() / "weights").c_str(), O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(fsync(fd), 0);
  EXPECT_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
  close(fd);
  const auto file = *ModelDirectory::Open(folder.path().string())->Map("weights");
  ASSERT_EQ(CachedPages(file->bytes()), 0) << "this needs a file system that forgets what it is told to forget";
  EXPECT_EQ(ReadZipDirectory(file->bytes())->size(), 100);
  const int64_t pages = CachedPages(file->bytes().first(50 * kMiB / 4));
  EXPECT_GE(pages, 50);
  EXPECT_LE(pages, 100);  // a header may lie on two pages
}

}  // namespace
}  // namespace optserve
