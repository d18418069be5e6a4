#pragma once

#include <filesystem>
#include <string>

namespace optserve {

// A folder of its own for a test, removed with all that is in it.
class TempDir {
 public:
  explicit TempDir(const std::filesystem::path& parent = std::filesystem::temp_directory_path());
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // Writes a file, and the folders on the way to it.
  void Write(const std::filesystem::path& relative, const std::string& contents) const;

 private:
  std::filesystem::path path_;
};

}  // namespace optserve
