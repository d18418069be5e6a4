#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace optserve {

// /proc, /sys, /dev and /run, of this machine or of a tree that a test has made.
class HostFiles {
 public:
  explicit HostFiles(std::filesystem::path root) : root_(std::move(root)) {}

  std::filesystem::path Path(std::string_view below_root) const { return root_ / below_root; }
  bool Exists(std::string_view below_root) const;
  // The text without white space at its end; none if it cannot be read.
  std::optional<std::string> Read(std::string_view below_root) const;
  std::vector<std::string> List(std::string_view below_root) const;  // names in a folder, sorted; none if there is none

  // Bytes of a line such as "MemAvailable:   12 kB" of /proc/meminfo.
  std::optional<int64_t> MemInfo(std::string_view name) const;
  // The hard limit of this process, a line of /proc/self/limits such as "Max open files"; 0 if it is not there.
  static constexpr int64_t kUnlimited = INT64_MAX;
  int64_t HardLimit(std::string_view name) const;
  // Whether a process with such a name runs; the kernel knows 15 letters of it.
  bool HasProcess(std::string_view name) const;
  // Lines of the kernel's log that are still in its buffer, oldest first; none if we may not read it.
  std::optional<std::vector<std::string>> KernelLog() const;

 private:
  const std::filesystem::path root_;
};

}  // namespace optserve
