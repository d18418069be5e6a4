#include <array>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "engine/checkpoint/checked_size.h"
#include "engine/checkpoint/torch_archive.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

constexpr size_t kMaxRank = 4;
constexpr int kMaxWrappers = 4;

struct StorageType {
  std::string_view name;
  DType dtype;
};
constexpr std::array kStorageTypes = {StorageType{"HalfStorage", DType::kF16},
                                      StorageType{"BFloat16Storage", DType::kBF16},
                                      StorageType{"FloatStorage", DType::kF32}};
constexpr std::array kDTypes = {StorageType{"float16", DType::kF16}, StorageType{"bfloat16", DType::kBF16},
                                StorageType{"float32", DType::kF32}};

struct Storage {
  std::span<const std::byte> bytes;
  std::optional<DType> dtype;  // none: untyped
};

std::string Described(const Pickle& pickle, PickleId id) {
  const PickleValue& value = pickle.at(id);
  if (value.kind == PickleKind::kGlobal) return Printable(value.text) + "." + Printable(value.name);
  if (value.kind == PickleKind::kCall) return "a call of " + Described(pickle, value.items[0]);
  return "something else";
}

template <size_t kCount>
std::optional<DType> TypeNamed(const std::array<StorageType, kCount>& types, std::string_view name) {
  for (const StorageType& type : types) {
    if (type.name == name) return type.dtype;
  }
  return std::nullopt;
}

// ("storage", class, key, device, number of elements[, part]): where it was on a device does not matter.
absl::StatusOr<Storage> ReadStorage(const TorchArchive& archive, PickleId id) {
  const Pickle& pickle = archive.pickle;
  const PickleValue& reference = pickle.at(id);
  if (reference.kind != PickleKind::kReference) return InvalidArgument("is not a view of a storage");
  const PickleValue& parts = pickle.at(reference.items[0]);
  if (parts.kind != PickleKind::kTuple || parts.items.size() < 5 || pickle.at(parts.items[0]).text != "storage" ||
      pickle.at(parts.items[1]).kind != PickleKind::kGlobal || pickle.at(parts.items[2]).kind != PickleKind::kString ||
      pickle.at(parts.items[4]).kind != PickleKind::kInt) {
    return InvalidArgument("refers to something that is not a storage");
  }
  const PickleValue& type = pickle.at(parts.items[1]);
  Storage storage;
  uint64_t element = 1;
  if (type.name != "UntypedStorage") {
    storage.dtype = type.text == "torch" ? TypeNamed(kStorageTypes, type.name) : std::nullopt;
    if (!storage.dtype) {
      return InvalidArgument("is stored as {}; HalfStorage, BFloat16Storage and FloatStorage can be read",
                             Described(pickle, parts.items[1]));
    }
    element = SizeOf(*storage.dtype);
  }
  OPTSERVE_ASSIGN_OR_RETURN(storage.bytes, archive.storages->Find(pickle.at(parts.items[2]).text));
  const int64_t count = pickle.at(parts.items[4]).number;
  if (count < 0 || !(CheckedSize(static_cast<uint64_t>(count)) * element == CheckedSize(storage.bytes.size()))) {
    return InvalidArgument("its storage should have {} elements, but has {} bytes", count, storage.bytes.size());
  }
  if (parts.items.size() < 6 || pickle.at(parts.items[5]).kind == PickleKind::kNone) return storage;

  // Before torch 1.6 a storage could be a part of another: (key, offset, number of elements).
  const PickleValue& part = pickle.at(parts.items[5]);
  if (part.kind != PickleKind::kTuple || part.items.size() != 3)
    return InvalidArgument("its storage is no part of one");
  const int64_t offset = pickle.at(part.items[1]).number, size = pickle.at(part.items[2]).number;
  if (offset < 0 || size < 0 || offset > count || size > count - offset) {
    return InvalidArgument("its storage reaches beyond the one that it is a part of");
  }
  storage.bytes = storage.bytes.subspan(static_cast<size_t>(offset) * element, static_cast<size_t>(size) * element);
  return storage;
}

// A tuple of whole numbers that are not negative.
absl::StatusOr<std::vector<int64_t>> ReadSizes(const Pickle& pickle, PickleId id, const char* what) {
  const PickleValue& tuple = pickle.at(id);
  if (tuple.kind != PickleKind::kTuple) return InvalidArgument("its {} is not a tuple", what);
  if (tuple.items.size() > kMaxRank) {
    return InvalidArgument("has {} dimensions, at most {} are possible", tuple.items.size(), kMaxRank);
  }
  std::vector<int64_t> sizes;
  for (const PickleId item : tuple.items) {
    const PickleValue& size = pickle.at(item);
    if (size.kind != PickleKind::kInt || size.number < 0) return InvalidArgument("its {} holds what is no size", what);
    sizes.push_back(size.number);
  }
  return sizes;
}

// A view as TensorView can be one: all but the first dimension packed.
absl::StatusOr<TensorView> MakeStridedView(std::vector<int64_t> sizes, std::vector<int64_t> strides, DType dtype) {
  if (sizes.size() != strides.size())
    return InvalidArgument("has {} sizes and {} strides", sizes.size(), strides.size());
  if (sizes.empty()) {  // a scalar
    sizes = {1};
    strides = {1};
  }
  TensorView view{.dtype = dtype, .rank = static_cast<int32_t>(sizes.size())};
  CheckedSize packed(1);  // the stride that the dimension would have
  for (size_t i = sizes.size(); i-- > 0;) {
    view.dims[i] = sizes[i];
    if (i > 0) {
      if (sizes[i] > 1 && !(packed == CheckedSize(static_cast<uint64_t>(strides[i])))) {
        return InvalidArgument("is stored transposed or with gaps between its columns; save a contiguous copy of it");
      }
      packed = packed * static_cast<uint64_t>(sizes[i]);
    }
  }
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max() / 8;
  if (!(packed <= kMost)) return InvalidArgument("has more elements than can be counted");
  const auto row = static_cast<int64_t>(packed.value());
  view.row_stride = sizes[0] > 1 ? strides[0] : row;
  if (view.row_stride < row) return InvalidArgument("has rows that share elements");
  return view;
}

// torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]); v3 has the dtype as
// its seventh argument.
absl::StatusOr<TensorView> Rebuild(const TorchArchive& archive, const std::vector<PickleId>& arguments, bool v3) {
  const Pickle& pickle = archive.pickle;
  if (arguments.size() < (v3 ? 7 : 6)) return InvalidArgument("is rebuilt from too few arguments");
  OPTSERVE_ASSIGN_OR_RETURN(const Storage storage, ReadStorage(archive, arguments[0]));
  std::optional<DType> dtype = storage.dtype;
  if (v3) {
    dtype = TypeNamed(kDTypes, pickle.at(arguments[6]).name);
    if (!dtype) return InvalidArgument("has dtype {}", Described(pickle, arguments[6]));
  }
  if (!dtype) return InvalidArgument("has no dtype");
  const PickleValue& offset = pickle.at(arguments[1]);
  if (offset.kind != PickleKind::kInt || offset.number < 0) return InvalidArgument("begins before its storage");
  OPTSERVE_ASSIGN_OR_RETURN(std::vector<int64_t> sizes, ReadSizes(pickle, arguments[2], "size"));
  OPTSERVE_ASSIGN_OR_RETURN(std::vector<int64_t> strides, ReadSizes(pickle, arguments[3], "stride"));
  OPTSERVE_ASSIGN_OR_RETURN(TensorView view, MakeStridedView(std::move(sizes), std::move(strides), *dtype));

  // From the first element to behind the last one.
  const auto unsigned_of = [](int64_t value) { return CheckedSize(static_cast<uint64_t>(value)); };
  CheckedSize extent(0);
  if (view.num_elements() > 0) {
    extent = unsigned_of(view.dims[0] - 1) * unsigned_of(view.row_stride) + unsigned_of(view.row_size());
  }
  const CheckedSize end = (unsigned_of(offset.number) + extent) * SizeOf(*dtype);
  if (!(end <= storage.bytes.size()))
    return InvalidArgument("reaches beyond its storage of {} bytes", storage.bytes.size());
  // Only read through.
  view.data = const_cast<std::byte*>(storage.bytes.data()) + static_cast<size_t>(offset.number) * SizeOf(*dtype);
  return view;
}

}  // namespace

bool LooksLikeTorchFile(const MappedFile& file) { return LooksLikeTorchZip(file) || LooksLikeTorchLegacy(file); }

absl::StatusOr<TorchArchive> OpenTorchFile(const MappedFile& file) {
  if (LooksLikeTorchZip(file)) return OpenTorchZip(file);
  if (LooksLikeTorchLegacy(file)) return OpenTorchLegacy(file);
  return InvalidArgument("{}: not a file of torch.save, or cut off", file.name());
}

absl::StatusOr<TensorView> ReadTorchTensor(const TorchArchive& archive, PickleId id) {
  const Pickle& pickle = archive.pickle;
  for (int wrappers = 0; wrappers < kMaxWrappers; ++wrappers) {
    const PickleValue& value = pickle.at(id);
    if (value.kind != PickleKind::kCall) break;
    const PickleId callee = value.items[0];
    const std::vector<PickleId>& arguments = pickle.at(value.items[1]).items;
    if (pickle.IsGlobal(callee, "torch._utils", "_rebuild_tensor_v2")) return Rebuild(archive, arguments, /*v3=*/false);
    if (pickle.IsGlobal(callee, "torch._utils", "_rebuild_tensor_v3")) return Rebuild(archive, arguments, /*v3=*/true);
    const bool is_parameter = pickle.IsGlobal(callee, "torch._utils", "_rebuild_parameter") ||
                              pickle.IsGlobal(callee, "torch.nn.parameter", "Parameter");
    if (!is_parameter || arguments.empty()) break;
    id = arguments[0];
  }
  return InvalidArgument("is {}, not a tensor", Described(pickle, id));
}

absl::StatusOr<std::vector<CheckpointTensor>> ReadStateDict(const TorchArchive& archive) {
  const Pickle& pickle = archive.pickle;
  if (!pickle.foreign_global().empty()) {
    return InvalidArgument("{}: names {}, which a file of tensors does not need; nothing of it was executed",
                           archive.file, pickle.foreign_global());
  }
  const PickleValue& dict = pickle.at(pickle.root());
  if (dict.kind != PickleKind::kDict) return InvalidArgument("{}: not a dictionary of tensors", archive.file);
  std::vector<CheckpointTensor> tensors;
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
    const PickleValue& name = pickle.at(dict.items[i]);
    if (name.kind != PickleKind::kString) return InvalidArgument("{}: a key that is not a string", archive.file);
    absl::StatusOr<TensorView> view = ReadTorchTensor(archive, dict.items[i + 1]);
    if (!view.ok()) return Within(fmt::format("{}: tensor {}", archive.file, Printable(name.text)), view.status());
    tensors.push_back({.name = std::string(name.text), .view = *view, .tiles = {}, .file = std::string(archive.file)});
  }
  return tensors;
}

}  // namespace optserve
