#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/pickle.h"
#include "engine/util/model_directory.h"

// What torch.save writes: one pickle, and the storages (arrays of numbers) that its tensors are views of.

namespace optserve {

// The storages of one file, by their keys.
class TorchStorages {
 public:
  virtual ~TorchStorages() = default;
  // The bytes of a storage. InvalidArgument names it, but not the file.
  virtual absl::StatusOr<std::span<const std::byte>> Find(std::string_view key) const = 0;
};

// An opened file. Borrows from the mapped file.
struct TorchArchive {
  std::string_view file;  // for messages
  std::string format;     // "torch zip"
  Pickle pickle;
  std::unique_ptr<TorchStorages> storages;
};

// A file of torch.save as of 1.6: a zip of data.pkl and one member per storage.
bool LooksLikeTorchZip(const MappedFile& file);
absl::StatusOr<TorchArchive> OpenTorchZip(const MappedFile& file);

// A file of torch.save before 1.6: five pickles (magic number, protocol, system, the object, keys of its storages),
// then each storage as an element count and raw data.
bool LooksLikeTorchLegacy(const MappedFile& file);
absl::StatusOr<TorchArchive> OpenTorchLegacy(const MappedFile& file);

// Either of them, by the file's content.
bool LooksLikeTorchFile(const MappedFile& file);
absl::StatusOr<TorchArchive> OpenTorchFile(const MappedFile& file);

// The tensor that a value of the pickle is: torch._utils._rebuild_tensor_v2 or _v3 of a storage, perhaps wrapped in a
// parameter. Row-major, with rows perhaps further apart than they are long; F16, BF16 or F32. The message says what is
// wrong, but not with which tensor.
absl::StatusOr<TensorView> ReadTorchTensor(const TorchArchive& archive, PickleId id);

// The tensors of a file that is a dictionary of tensors (a state_dict) and nothing else.
absl::StatusOr<std::vector<CheckpointTensor>> ReadStateDict(const TorchArchive& archive);

}  // namespace optserve
