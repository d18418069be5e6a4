#include "engine/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

absl::Status SystemError(std::string_view name) {
  const int error = errno;
  if (error == ENOENT) return NotFound("{}: no such file", name);
  if (error == ELOOP) return InvalidArgument("{}: is a link to a link", name);
  return InvalidArgument("{}: {}", name, std::strerror(error));
}

// The path to open: the file itself, or the blob that a link of the Hugging Face cache names.
absl::StatusOr<std::string> Resolve(const std::string& directory, std::string_view name) {
  constexpr std::string_view kBlobs = "../../blobs/";
  const std::string path = directory + "/" + std::string(name);
  std::array<char, 512> target{};
  const ssize_t length = readlink(path.c_str(), target.data(), target.size());
  if (length < 0) return path;  // not a link; what else is wrong, opening will tell
  const std::string_view link(target.data(), static_cast<size_t>(length));
  if (link.substr(0, kBlobs.size()) == kBlobs && IsBareFileName(link.substr(kBlobs.size()))) {
    return directory + "/" + std::string(link);
  }
  return InvalidArgument("{}: is a link out of the model directory", name);
}

}  // namespace

bool IsBareFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& directory, std::string_view name) {
  if (!IsBareFileName(name)) return InvalidArgument("{}: is not a bare file name", name);
  OPTSERVE_ASSIGN_OR_RETURN(const std::string path, Resolve(directory, name));
  // O_NONBLOCK: a FIFO must not hold us up until somebody writes to it.
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (file.get() < 0) return SystemError(name);
  struct stat info {};
  if (fstat(file.get(), &info) != 0) return SystemError(name);
  if (!S_ISREG(info.st_mode)) return InvalidArgument("{}: is not a regular file", name);
  const auto size = static_cast<size_t>(info.st_size);
  const void* data = nullptr;
  if (size > 0) {
    data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (data == MAP_FAILED) return SystemError(name);
  }
  return std::unique_ptr<MappedFile>(new MappedFile(std::string(name), static_cast<const std::byte*>(data), size));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::WillNeed() const {
  if (data_ != nullptr) madvise(const_cast<std::byte*>(data_), size_, MADV_WILLNEED);
}

absl::StatusOr<std::string> ReadTextFile(const std::string& directory, std::string_view name, size_t max_bytes) {
  OPTSERVE_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, MappedFile::Open(directory, name));
  if (file->size() > max_bytes)
    return InvalidArgument("{}: has {} bytes, the limit is {}", name, file->size(), max_bytes);
  return std::string(file->text());
}

}  // namespace optserve
