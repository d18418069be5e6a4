#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace optserve {

// A file that appears under its name when it is whole, and not before: it is written as .NAME.partial beside it,
// flushed to the disk, and renamed. Destroyed before Commit, it leaves nothing.
class OutputFile {
 public:
  static absl::StatusOr<OutputFile> Create(const std::filesystem::path& path);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile();

  absl::Status Write(std::span<const std::byte> bytes);
  absl::Status Write(std::string_view text);
  absl::Status Commit();

 private:
  OutputFile(int fd, std::filesystem::path path, std::filesystem::path partial)
      : fd_(fd), path_(std::move(path)), partial_(std::move(partial)) {}

  int fd_;
  std::filesystem::path path_;
  std::filesystem::path partial_;
};

}  // namespace optserve
