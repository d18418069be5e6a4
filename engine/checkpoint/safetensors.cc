#include "engine/checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "engine/checkpoint/checked_size.h"
#include "engine/checkpoint/mapped_checkpoint.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/safetensors_header.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxIndexBytes = 64 << 20;

std::optional<DType> ParseDType(std::string_view name) {
  if (name == "F16") return DType::kF16;
  if (name == "BF16") return DType::kBF16;
  if (name == "F32") return DType::kF32;
  return std::nullopt;
}

// The part of the file that holds the header's JSON.
absl::StatusOr<std::string_view> FindHeader(const MappedFile& file) {
  if (file.size() < kLengthBytes) return InvalidArgument("{}: ends inside the header's length", file.name());
  uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  if (file.text().substr(0, 7) == "version") {
    return InvalidArgument("{}: is a Git LFS pointer; fetch the file itself with: git lfs pull", file.name());
  }
  if (length == 0) return InvalidArgument("{}: has an empty header", file.name());
  if (length > kMaxHeaderBytes) {
    return InvalidArgument("{}: the header's length is {} bytes, the limit is {}", file.name(), length,
                           kMaxHeaderBytes);
  }
  if (!(CheckedSize(length) + kLengthBytes <= file.size())) {
    return InvalidArgument("{}: ends inside the header of {} bytes", file.name(), length);
  }
  return file.text().substr(kLengthBytes, length);
}

absl::StatusOr<TensorView> MakeTensor(const SafetensorsEntry& entry, const MappedFile& file, uint64_t data_begin) {
  const auto error = [&](const std::string& what) {
    return InvalidArgument("{}: tensor {} {}", file.name(), entry.name, what);
  };
  const std::optional<DType> dtype = ParseDType(entry.dtype);
  if (!dtype) return error(fmt::format("has dtype {}; F16, BF16 and F32 can be read", entry.dtype));
  if (entry.begin > entry.end) return error("begins after its end");
  if (!(CheckedSize(data_begin) + entry.end <= file.size())) return error("ends after the end of the file");
  CheckedSize bytes = SizeOf(*dtype);
  for (const uint64_t dim : entry.shape) bytes = bytes * dim;
  if (!(bytes == CheckedSize(entry.end - entry.begin))) {
    return error(fmt::format("has {} bytes, which is not what its shape and dtype need", entry.end - entry.begin));
  }
  return MakeMappedView(file.data() + data_begin + entry.begin, *dtype, entry.shape);
}

// Tensors lie side by side: from the first byte of data to the last, none shared, none left over.
absl::Status CheckTiling(std::vector<SafetensorsEntry> entries, const MappedFile& file, uint64_t data_begin) {
  std::sort(entries.begin(), entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t at = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin < at) return InvalidArgument("{}: tensor {} overlaps the one before it", file.name(), entry.name);
    if (entry.begin > at)
      return InvalidArgument("{}: {} bytes before tensor {} belong to nothing", file.name(), entry.begin - at,
                             entry.name);
    at = entry.end;
  }
  if (data_begin + at != file.size()) {
    return InvalidArgument("{}: {} bytes follow the last tensor", file.name(), file.size() - data_begin - at);
  }
  return absl::OkStatus();
}

absl::Status AddFile(std::unique_ptr<MappedFile> file, MappedCheckpoint& checkpoint) {
  OPTSERVE_ASSIGN_OR_RETURN(const std::string_view header, FindHeader(*file));
  absl::StatusOr<std::vector<SafetensorsEntry>> entries = ParseSafetensorsHeader(header);
  if (!entries.ok()) return InvalidArgument("{}: {}", file->name(), std::string(entries.status().message()));
  const uint64_t data_begin = kLengthBytes + header.size();
  for (const SafetensorsEntry& entry : *entries) {
    OPTSERVE_ASSIGN_OR_RETURN(const TensorView view, MakeTensor(entry, *file, data_begin));
    checkpoint.Add({.name = entry.name, .view = view, .file = file->name()});
  }
  OPTSERVE_RETURN_IF_ERROR(CheckTiling(*std::move(entries), *file, data_begin));
  checkpoint.Keep(std::move(file));
  return absl::OkStatus();
}

// weight_map of the index: tensor -> file.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& directory) {
  OPTSERVE_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(directory, kIndex, kMaxIndexBytes));
  const nlohmann::json index = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (index.is_discarded()) return InvalidArgument("{}: is not JSON", kIndex);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object()) return InvalidArgument("{}: has no weight_map", kIndex);
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) return InvalidArgument("{}: the file of tensor {} is not a string", kIndex, tensor);
    const std::string name = file.get<std::string>();
    if (!IsBareFileName(name)) {
      return InvalidArgument("{}: the file of tensor {} is '{}', which is not a bare file name", kIndex, tensor,
                             name.substr(0, name.find('\0')));
    }
    files.emplace(tensor, name);
  }
  return files;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSharded(const std::string& directory) {
  OPTSERVE_ASSIGN_OR_RETURN(const auto files, ReadIndex(directory));
  auto checkpoint = std::make_unique<MappedCheckpoint>("safetensors, sharded");
  std::vector<std::string> names;
  for (const auto& [tensor, file] : files) names.push_back(file);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  for (const std::string& name : names) {
    absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(directory, name);
    if (!file.ok()) return InvalidArgument("{}: names {}", kIndex, std::string(file.status().message()));
    OPTSERVE_RETURN_IF_ERROR(AddFile(*std::move(file), *checkpoint));
  }
  if (absl::Status status = checkpoint->Finish(); !status.ok()) {
    return InvalidArgument("{}: {}", kIndex, std::string(status.message()));
  }
  for (const auto& [tensor, file] : files) {
    const CheckpointTensor* found = checkpoint->Find(tensor);
    if (found == nullptr || found->file != file) {
      return InvalidArgument("{}: says that tensor {} is in {}, but it is not", kIndex, tensor, file);
    }
  }
  return checkpoint;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSafetensors(const std::string& model_directory) {
  absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(model_directory, kSingle);
  if (absl::IsNotFound(file.status())) return OpenSharded(model_directory);
  OPTSERVE_RETURN_IF_ERROR(file.status());
  auto checkpoint = std::make_unique<MappedCheckpoint>("safetensors");
  OPTSERVE_RETURN_IF_ERROR(AddFile(*std::move(file), *checkpoint));
  OPTSERVE_RETURN_IF_ERROR(checkpoint->Finish());
  return checkpoint;
}

}  // namespace optserve
