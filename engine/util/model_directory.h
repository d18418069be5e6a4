#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace optserve {

// A file's bytes, mapped read-only and private: nothing is read before it is touched, and nobody can write through it.
class MappedFile {
 public:
  MappedFile(std::string name, std::span<const std::byte> bytes) : name_(std::move(name)), bytes_(bytes) {}
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& name() const { return name_; }  // base name, for messages
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::string name_;
  std::span<const std::byte> bytes_;
};

// A model's folder, and the only way to its files. A name that comes from a file cannot lead out of it: names are bare,
// and a symbolic link is followed only if it is one that the Hugging Face cache makes (../../blobs/<hash>). What is not
// a regular file - a FIFO, a device, a folder - is refused without waiting for it.
class ModelDirectory {
 public:
  // NotFound / PermissionDenied with the path: it is the user's own argument.
  static absl::StatusOr<ModelDirectory> Open(const std::string& path);
  ModelDirectory(ModelDirectory&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ModelDirectory& operator=(ModelDirectory&&) = delete;
  ~ModelDirectory();

  // True if there is an entry of that name, whatever it is.
  bool Has(std::string_view name) const;
  // Names of all entries, sorted.
  std::vector<std::string> List() const;

  // The name of the blob that a file is a link of the Hugging Face cache to; nullopt if it is no such link.
  std::optional<std::string> BlobName(std::string_view name) const;

  // NotFound if there is no such file; InvalidArgument if it is not one that we open. Messages start with the name.
  absl::StatusOr<std::unique_ptr<MappedFile>> Map(std::string_view name) const;
  // The whole of a small file.
  absl::StatusOr<std::string> Read(std::string_view name, size_t max_bytes) const;

 private:
  explicit ModelDirectory(int fd) : fd_(fd) {}
  absl::StatusOr<int> OpenFile(const std::string& name, size_t* size) const;

  int fd_ = -1;
};

// True for a name without any way out of its folder: not empty, no '/', '\', NUL, "." or "..".
bool IsBareFileName(std::string_view name);

// A name from a file as it can stand in a one-line message: control characters and broken UTF-8 escaped, cut at 200
// bytes.
std::string Printable(std::string_view name);

}  // namespace optserve
