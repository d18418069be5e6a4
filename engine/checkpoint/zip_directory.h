#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace optserve {

// A member of a zip file. torch.save stores its members as they are, so that they can be used where they lie.
struct ZipMember {
  std::string name;
  std::span<const std::byte> bytes;  // of the mapped file
  std::string problem;               // why the bytes cannot be used; empty if they can
};

// The members of a zip file, in the order of its directory. Sizes are those of the central directory, because torch
// leaves those of the local headers at 0; names and methods must be the same in both, so that no two readers see
// different files.
//
// InvalidArgument if there is no directory, or it contradicts itself or the file. What is wrong with a single member -
// it is compressed, encrypted, beyond the file, or shares bytes with another - is in its `problem`, for a message that
// can say what it was needed for.
// Source  PKWARE APPNOTE.TXT 6.3.10; pytorch, caffe2/serialize/inline_container.cc.
absl::StatusOr<std::vector<ZipMember>> ReadZipDirectory(std::span<const std::byte> file);

}  // namespace optserve
