#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Files of a model directory, read as somebody else's: only regular files of that directory, and the one kind of link
// that the Hugging Face cache makes (snapshots/<commit>/NAME -> ../../blobs/HASH).

namespace optserve {

// A whole file, mapped read-only. The pages are the system's page cache: nothing is copied, and processes share them.
class MappedFile {
 public:
  // `name` is a bare file name. NotFound: it is not there. InvalidArgument: it is no regular file, or a link elsewhere,
  // or `name` is not a bare name; the text begins with the name.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& directory, std::string_view name);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& name() const { return name_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

  // Asks the system to read ahead; returns at once.
  void WillNeed() const;

 private:
  MappedFile(std::string name, const std::byte* data, size_t size) : name_(std::move(name)), data_(data), size_(size) {}

  std::string name_;
  const std::byte* data_;
  size_t size_;
};

// Whether `name` can only be a file of the directory itself: no separator, no "..", no NUL, not empty.
bool IsBareFileName(std::string_view name);

// The contents of a small text file, at most `max_bytes`. Errors as MappedFile::Open.
absl::StatusOr<std::string> ReadTextFile(const std::string& directory, std::string_view name, size_t max_bytes);

}  // namespace optserve
