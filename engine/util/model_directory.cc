#include "engine/util/model_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

constexpr std::string_view kBlobs = "../../blobs/";

absl::Status SystemError(std::string_view name, int error) {
  const std::string text = fmt::format("{}: {}", name, std::strerror(error));
  if (error == ENOENT) return absl::NotFoundError(text);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(text);
  return absl::UnavailableError(text);
}

}  // namespace

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

absl::StatusOr<ModelDirectory> ModelDirectory::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return SystemError(Printable(path), errno);
  return ModelDirectory(fd);
}

ModelDirectory::~ModelDirectory() {
  if (fd_ >= 0) close(fd_);
}

bool ModelDirectory::Has(std::string_view name) const {
  struct stat info;
  return IsBareFileName(name) && fstatat(fd_, std::string(name).c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0;
}

std::vector<std::string> ModelDirectory::List() const {
  std::vector<std::string> names;
  const int fd = openat(fd_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return names;
  DIR* directory = fdopendir(fd);
  if (directory == nullptr) {
    close(fd);
    return names;
  }
  while (const dirent* entry = readdir(directory)) {
    if (IsBareFileName(entry->d_name)) names.emplace_back(entry->d_name);
  }
  closedir(directory);
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<std::string> ModelDirectory::BlobName(std::string_view name) const {
  std::array<char, 512> target;
  if (!IsBareFileName(name)) return std::nullopt;
  const ssize_t length = readlinkat(fd_, std::string(name).c_str(), target.data(), target.size());
  if (length < 0) return std::nullopt;
  std::string_view link(target.data(), static_cast<size_t>(length));
  if (!link.starts_with(kBlobs)) return std::nullopt;
  link.remove_prefix(kBlobs.size());
  if (!IsBareFileName(link)) return std::nullopt;
  return std::string(link);
}

absl::StatusOr<int> ModelDirectory::OpenFile(const std::string& name, size_t* size) const {
  if (!IsBareFileName(name))
    return InvalidArgument("'{}' is not the name of a file in the model's folder", Printable(name));
  constexpr int kFlags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  int fd = openat(fd_, name.c_str(), kFlags);
  if (fd < 0 && errno == ELOOP) {
    const std::optional<std::string> blob = BlobName(name);
    if (!blob) {
      return InvalidArgument(
          "{}: a symbolic link; only those of the Hugging Face cache, to ../../blobs, are followed: copy the file "
          "itself "
          "into the model's folder",
          name);
    }
    fd = openat(fd_, (std::string(kBlobs) + *blob).c_str(), kFlags);
    if (fd < 0 && errno == ELOOP) return InvalidArgument("{}: a symbolic link to a symbolic link", name);
  }
  if (fd < 0) return SystemError(name, errno);
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return InvalidArgument("{}: not a regular file", name);
  }
  *size = static_cast<size_t>(info.st_size);
  return fd;
}

absl::StatusOr<std::unique_ptr<MappedFile>> ModelDirectory::Map(std::string_view name) const {
  size_t size = 0;
  OPTSERVE_ASSIGN_OR_RETURN(const int fd, OpenFile(std::string(name), &size));
  if (size == 0) {  // which cannot be mapped
    close(fd);
    return std::make_unique<MappedFile>(std::string(name), std::span<const std::byte>());
  }
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  close(fd);
  if (data == MAP_FAILED) return SystemError(name, error);
  return std::make_unique<MappedFile>(std::string(name), std::span(static_cast<const std::byte*>(data), size));
}

absl::StatusOr<std::string> ModelDirectory::Read(std::string_view name, size_t max_bytes) const {
  size_t size = 0;
  OPTSERVE_ASSIGN_OR_RETURN(const int fd, OpenFile(std::string(name), &size));
  if (size > max_bytes) {
    close(fd);
    return InvalidArgument("{}: {} bytes, but such a file has at most {}", name, size, max_bytes);
  }
  std::string text(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t count = read(fd, text.data() + done, size - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int error = errno;
      close(fd);
      return SystemError(name, error);
    }
    if (count == 0) break;  // became shorter meanwhile
    done += static_cast<size_t>(count);
  }
  close(fd);
  text.resize(done);
  return text;
}

bool IsBareFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.size() < 256 &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

std::string Printable(std::string_view name) {
  constexpr size_t kMaxBytes = 200;
  std::string out;
  for (const char c : name.substr(0, kMaxBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  if (name.size() > kMaxBytes) out += "...";
  return out;
}

}  // namespace optserve
