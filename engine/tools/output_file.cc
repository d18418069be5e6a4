#include "engine/tools/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

absl::Status WriteError(const std::filesystem::path& path, int error) {
  if (error == ENOSPC || error == EDQUOT) {
    return ResourceExhausted("{}: {}; free some room and run the same command again", path.string(),
                             std::strerror(error));
  }
  return Unavailable("{}: {}", path.string(), std::strerror(error));
}

}  // namespace

absl::StatusOr<OutputFile> OutputFile::Create(const std::filesystem::path& path) {
  std::filesystem::path partial = path.parent_path() / fmt::format(".{}.partial", path.filename().string());
  const int fd = open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (fd < 0) return WriteError(path, errno);
  return OutputFile(fd, path, std::move(partial));
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)), partial_(std::move(other.partial_)) {}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(partial_.c_str());
}

absl::Status OutputFile::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(fd_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return WriteError(path_, errno);
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Write(std::string_view text) {
  return Write(std::as_bytes(std::span(text.data(), text.size())));
}

absl::Status OutputFile::Commit() {
  if (fsync(fd_) != 0 || rename(partial_.c_str(), path_.c_str()) != 0) return WriteError(path_, errno);
  close(fd_);
  fd_ = -1;
  return absl::OkStatus();
}

}  // namespace optserve
