#include "server/doctor/host_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <iterator>
#include <sstream>

namespace optserve {

namespace fs = std::filesystem;

bool HostFiles::Exists(std::string_view below_root) const {
  std::error_code ignored;
  return fs::exists(Path(below_root), ignored);
}

std::optional<std::string> HostFiles::Read(std::string_view below_root) const {
  std::ifstream file(Path(below_root), std::ios::binary);
  if (!file) return std::nullopt;
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  text.erase(text.find_last_not_of(" \n\t") + 1);
  return text;
}

std::vector<std::string> HostFiles::List(std::string_view below_root) const {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(Path(below_root), ignored)) {
    names.push_back(entry.path().filename());
  }
  std::ranges::sort(names);
  return names;
}

std::optional<int64_t> HostFiles::MemInfo(std::string_view name) const {
  const std::string text = Read("proc/meminfo").value_or("");
  size_t at = text.find(std::string(name) + ":");
  if (at == text.npos) return std::nullopt;
  at = text.find_first_of("0123456789", at);
  if (at == text.npos) return std::nullopt;
  int64_t kib = 0;
  std::from_chars(text.data() + at, text.data() + text.size(), kib);
  return kib * 1024;
}

int64_t HostFiles::HardLimit(std::string_view name) const {
  std::istringstream lines(Read("proc/self/limits").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name)) continue;
    std::istringstream words(line.substr(name.size()));
    std::string soft;
    std::string hard;
    words >> soft >> hard;
    if (hard == "unlimited") return kUnlimited;
    int64_t value = 0;
    std::from_chars(hard.data(), hard.data() + hard.size(), value);
    return value;
  }
  return 0;
}

bool HostFiles::HasProcess(std::string_view name) const {
  constexpr size_t kNameBytes = 15;
  return std::ranges::any_of(List("proc"), [&](const std::string& pid) {
    return std::isdigit(static_cast<unsigned char>(pid.front())) != 0 &&
           Read("proc/" + pid + "/comm") == std::string(name.substr(0, kNameBytes));
  });
}

std::optional<std::vector<std::string>> HostFiles::KernelLog() const {
  const int fd = open(Path("dev/kmsg").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  // A read of the device gives one record; EPIPE says that records were overwritten, the next read goes on behind them.
  std::string text;
  char record[8192];
  while (true) {
    const ssize_t size = read(fd, record, sizeof(record));
    if (size < 0 && errno == EPIPE) continue;
    if (size <= 0) break;
    text.append(record, static_cast<size_t>(size));
  }
  close(fd);
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

}  // namespace optserve
