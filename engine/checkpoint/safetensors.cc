#include "engine/checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "engine/checkpoint/checked_size.h"
#include "engine/checkpoint/strict_json.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = uint64_t{16} << 20;  // OPT-175B needs 0.3 MiB; the format itself allows 100 MB
constexpr int kMaxRank = 4;
constexpr uint64_t kMostElements = std::numeric_limits<int64_t>::max();

static_assert(std::endian::native == std::endian::little, "safetensors stores little-endian values");

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  size_t tensor = 0;
};

uint64_t HeaderLength(std::span<const std::byte> bytes) {
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  return length;
}

std::optional<DType> ParseDType(const std::string& name) {
  if (name == "F32") return DType::kF32;
  if (name == "F16") return DType::kF16;
  if (name == "BF16") return DType::kBF16;
  return std::nullopt;
}

// The reason why an entry is wrong, without file and tensor; fills view (all but data) and range otherwise.
absl::Status ParseEntry(const Json& entry, TensorView* view, Range* range) {
  if (!entry.is_object()) return InvalidArgument("its header entry is not an object");
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!entry.contains(key)) return InvalidArgument("its header entry has no {}", key);
  }
  const Json& dtype = entry["dtype"];
  if (!dtype.is_string()) return InvalidArgument("dtype is not a string");
  const std::optional<DType> parsed = ParseDType(dtype.get<std::string>());
  if (!parsed) {
    return InvalidArgument("dtype is {}, but must be F16, BF16 or F32", Printable(dtype.get<std::string>()));
  }
  view->dtype = *parsed;

  const Json& shape = entry["shape"];
  if (!shape.is_array()) return InvalidArgument("shape is not a list");
  if (shape.size() > kMaxRank)
    return InvalidArgument("has {} dimensions, at most {} are possible", shape.size(), kMaxRank);
  CheckedSize row(1);
  view->rank = 0;
  for (const Json& dim : shape) {
    const std::optional<int64_t> size = WholeNumber(dim);
    if (!size || *size < 0) return InvalidArgument("shape holds {}, which is no size", Printable(dim.dump()));
    if (view->rank > 0) row = row * static_cast<uint64_t>(*size);
    view->dims[view->rank++] = *size;
  }
  if (view->rank == 0) view->dims[view->rank++] = 1;
  const CheckedSize bytes = row * static_cast<uint64_t>(view->dims[0]) * SizeOf(view->dtype);
  // A row is checked for itself: no rows of a row that cannot be counted make 0 bytes.
  if (!(row <= kMostElements && bytes <= kMostElements)) {
    return InvalidArgument("shape {} has more elements than can be counted", Printable(shape.dump()));
  }
  view->row_stride = static_cast<int64_t>(row.value());

  const Json& offsets = entry["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) return InvalidArgument("data_offsets is not a list of two numbers");
  const std::optional<int64_t> begin = WholeNumber(offsets[0]);
  const std::optional<int64_t> end = WholeNumber(offsets[1]);
  if (!begin || !end || *begin < 0 || *end < *begin) {
    return InvalidArgument("data_offsets {} are not a range", Printable(offsets.dump()));
  }
  if (!(bytes == static_cast<uint64_t>(*end - *begin))) {
    return InvalidArgument("data_offsets {} span {} bytes, but shape {} of {} needs {}", offsets.dump(), *end - *begin,
                           shape.dump(), dtype.get<std::string>(), bytes.value());
  }
  range->begin = *begin;
  range->end = *end;
  return absl::OkStatus();
}

absl::Status CheckMetadata(const MappedFile& file, const Json& metadata) {
  const bool strings = metadata.is_object() && std::all_of(metadata.begin(), metadata.end(),
                                                           [](const Json& value) { return value.is_string(); });
  if (strings) return absl::OkStatus();
  return InvalidArgument("{}: __metadata__ is not an object of strings", file.name());
}

// The ranges must tile the data: no gap, no overlap, nothing behind the last one.
absl::Status CheckTiling(const MappedFile& file, const std::vector<CheckpointTensor>& tensors,
                         std::vector<Range> ranges, int64_t data_bytes) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  const auto last =
      std::max_element(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.end < b.end; });
  if (last != ranges.end() && last->end > data_bytes) {
    return InvalidArgument(
        "{}: tensor {} ends at byte {} of the data, but the file has only {}: it is cut off or broken", file.name(),
        Printable(tensors[last->tensor].name), last->end, data_bytes);
  }
  int64_t covered = 0;
  const std::string* previous = nullptr;
  for (const Range& range : ranges) {
    const std::string& name = tensors[range.tensor].name;
    if (range.begin < covered) {
      return InvalidArgument("{}: tensors {} and {} share bytes", file.name(), Printable(*previous), Printable(name));
    }
    if (range.begin > covered) {
      return InvalidArgument("{}: {} bytes before tensor {} belong to no tensor", file.name(), range.begin - covered,
                             Printable(name));
    }
    covered = range.end;
    previous = &name;
  }
  if (covered < data_bytes) {
    return InvalidArgument("{}: {} bytes follow the last tensor", file.name(), data_bytes - covered);
  }
  return absl::OkStatus();
}

}  // namespace

bool LooksLikeSafetensors(const MappedFile& file) {
  const std::span<const std::byte> bytes = file.bytes();
  return bytes.size() > kLengthBytes && bytes[kLengthBytes] == std::byte{'{'} &&
         HeaderLength(bytes) <= bytes.size() - kLengthBytes;
}

absl::StatusOr<std::vector<CheckpointTensor>> ReadSafetensors(const MappedFile& file,
                                                              std::map<std::string, std::string>* metadata) {
  const std::span<const std::byte> bytes = file.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("version https://git-lfs")) {
    return InvalidArgument("{}: a Git LFS pointer, not the weights: run git lfs pull", file.name());
  }
  if (bytes.size() < kLengthBytes) {
    return InvalidArgument("{}: {} bytes are too few for a safetensors file", file.name(), bytes.size());
  }
  const uint64_t header_bytes = HeaderLength(bytes);
  if (header_bytes > bytes.size() - kLengthBytes) {
    return InvalidArgument(
        "{}: the header should have {} bytes, but the file has {}: it is cut off, or no safetensors file", file.name(),
        header_bytes, bytes.size());
  }
  if (header_bytes > kMaxHeaderBytes) {
    return InvalidArgument("{}: a header of {} bytes; at most {} are read", file.name(), header_bytes, kMaxHeaderBytes);
  }
  absl::StatusOr<Json> header = ParseStrictJson(text.substr(kLengthBytes, header_bytes));
  if (!header.ok()) return Within(file.name() + ": header", header.status());
  if (!header->is_object()) return InvalidArgument("{}: the header is not a JSON object", file.name());

  const std::byte* data = bytes.data() + kLengthBytes + header_bytes;
  std::vector<CheckpointTensor> tensors;
  std::vector<Range> ranges;
  tensors.reserve(header->size());
  ranges.reserve(header->size());
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") {
      OPTSERVE_RETURN_IF_ERROR(CheckMetadata(file, entry));
      if (metadata != nullptr) entry.get_to(*metadata);
      continue;
    }
    CheckpointTensor tensor{.name = name, .view = {}, .tiles = {}, .file = file.name()};
    Range range{.tensor = tensors.size()};
    if (absl::Status status = ParseEntry(entry, &tensor.view, &range); !status.ok()) {
      return Within(file.name() + ": tensor " + Printable(name), status);
    }
    // Only read through: TensorView has no const twin. Not dereferenced before CheckTiling has seen the range.
    tensor.view.data = const_cast<std::byte*>(data);
    tensors.push_back(std::move(tensor));
    ranges.push_back(range);
  }
  const auto data_bytes = static_cast<int64_t>(bytes.size() - kLengthBytes - header_bytes);
  OPTSERVE_RETURN_IF_ERROR(CheckTiling(file, tensors, ranges, data_bytes));
  for (const Range& range : ranges) tensors[range.tensor].view.data = const_cast<std::byte*>(data + range.begin);
  return tensors;
}

}  // namespace optserve
