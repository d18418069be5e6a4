#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "engine/checkpoint/checked_size.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/torch_archive.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

constexpr std::string_view kMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);  // 0x1950a86a20f9469cfc6c
constexpr int64_t kProtocol = 1001;

using Spans = std::unordered_map<std::string_view, std::span<const std::byte>>;  // storages by key

class StreamStorages : public TorchStorages {
 public:
  explicit StreamStorages(Spans spans) : spans_(std::move(spans)) {}

  absl::StatusOr<std::span<const std::byte>> Find(std::string_view key) const override {
    const auto found = spans_.find(key);
    if (found == spans_.end()) return InvalidArgument("there is no storage {}", Printable(key));
    return found->second;
  }

 private:
  Spans spans_;
};

// Reads the stream from front to back.
class Stream {
 public:
  explicit Stream(std::span<const std::byte> bytes) : rest_(bytes) {}

  absl::StatusOr<Pickle> Next(const char* what) {
    absl::StatusOr<Pickle> pickle = ParsePickle(rest_);
    if (!pickle.ok()) return Within(what, pickle.status());
    rest_ = rest_.subspan(pickle->num_bytes());
    return pickle;
  }

  // An element count, and so many elements.
  absl::StatusOr<std::span<const std::byte>> NextStorage(std::string_view key, uint64_t element_bytes) {
    int64_t count = 0;
    if (rest_.size() < sizeof(count)) return InvalidArgument("the stream ends before storage {}", Printable(key));
    std::memcpy(&count, rest_.data(), sizeof(count));
    rest_ = rest_.subspan(sizeof(count));
    const CheckedSize bytes = CheckedSize(static_cast<uint64_t>(count)) * element_bytes;
    if (count < 0 || !(bytes <= rest_.size())) {
      return InvalidArgument("storage {} should have {} elements of {} bytes, but {} bytes are left", Printable(key),
                             count, element_bytes, rest_.size());
    }
    const auto storage = rest_.first(bytes.value());
    rest_ = rest_.subspan(bytes.value());
    return storage;
  }

  size_t bytes_left() const { return rest_.size(); }

 private:
  std::span<const std::byte> rest_;
};

absl::StatusOr<uint64_t> ElementBytes(std::string_view storage_class) {
  struct Type {
    std::string_view name;
    uint64_t bytes;
  };
  constexpr std::array kTypes = {Type{"HalfStorage", 2},   Type{"BFloat16Storage", 2}, Type{"FloatStorage", 4},
                                 Type{"DoubleStorage", 8}, Type{"LongStorage", 8},     Type{"IntStorage", 4},
                                 Type{"ShortStorage", 2},  Type{"CharStorage", 1},     Type{"ByteStorage", 1},
                                 Type{"BoolStorage", 1}};
  for (const Type& type : kTypes) {
    if (type.name == storage_class) return type.bytes;
  }
  return InvalidArgument("an unknown kind of storage, {}", Printable(storage_class));
}

// Bytes of an element of each storage that the object refers to.
absl::StatusOr<std::unordered_map<std::string_view, uint64_t>> ElementSizes(const Pickle& pickle) {
  std::unordered_map<std::string_view, uint64_t> sizes;
  for (PickleId id = 0; id < pickle.size(); ++id) {
    if (pickle.at(id).kind != PickleKind::kReference) continue;
    const PickleValue& parts = pickle.at(pickle.at(id).items[0]);
    if (parts.kind != PickleKind::kTuple || parts.items.size() < 3) continue;  // refused when a tensor uses it
    const PickleValue& key = pickle.at(parts.items[2]);
    OPTSERVE_ASSIGN_OR_RETURN(const uint64_t bytes, ElementBytes(pickle.at(parts.items[1]).name));
    const auto [at, is_new] = sizes.emplace(key.text, bytes);
    if (!is_new && at->second != bytes) return InvalidArgument("storage {} is of two kinds", Printable(key.text));
  }
  return sizes;
}

absl::StatusOr<TorchArchive> Open(const MappedFile& file) {
  Stream stream(file.bytes());
  OPTSERVE_ASSIGN_OR_RETURN(const Pickle magic, stream.Next("magic number"));
  if (magic.at(magic.root()).text != kMagic)
    return InvalidArgument("not a file of torch.save: its magic number is wrong");
  OPTSERVE_ASSIGN_OR_RETURN(const Pickle protocol, stream.Next("protocol"));
  if (protocol.at(protocol.root()).number != kProtocol) return InvalidArgument("an unknown protocol of torch.save");
  OPTSERVE_ASSIGN_OR_RETURN(const Pickle system, stream.Next("system"));
  const PickleValue* little = system.Find(system.at(system.root()), "little_endian");
  if (little == nullptr || little->number != 1) return InvalidArgument("only little-endian files can be read");
  OPTSERVE_ASSIGN_OR_RETURN(Pickle object, stream.Next("object"));
  OPTSERVE_ASSIGN_OR_RETURN(const Pickle keys, stream.Next("storage keys"));

  OPTSERVE_ASSIGN_OR_RETURN(const auto element_sizes, ElementSizes(object));
  const PickleValue& list = keys.at(keys.root());
  if (list.kind != PickleKind::kList) return InvalidArgument("the storage keys are not a list");
  Spans spans;
  for (const PickleId id : list.items) {
    const std::string_view key = keys.at(id).text;
    const auto size = element_sizes.find(key);
    if (size == element_sizes.end()) return InvalidArgument("storage {} belongs to no tensor", Printable(key));
    OPTSERVE_ASSIGN_OR_RETURN(const auto storage, stream.NextStorage(key, size->second));
    if (!spans.emplace(key, storage).second) return InvalidArgument("storage {} is there twice", Printable(key));
  }
  if (stream.bytes_left() > 0) return InvalidArgument("{} bytes follow the last storage", stream.bytes_left());
  return TorchArchive{.file = file.name(),
                      .format = "torch stream",
                      .pickle = std::move(object),
                      .storages = std::make_unique<StreamStorages>(std::move(spans))};
}

}  // namespace

bool LooksLikeTorchLegacy(const MappedFile& file) {
  return !file.bytes().empty() && file.bytes()[0] == std::byte{0x80} && !LooksLikeSafetensors(file);
}

absl::StatusOr<TorchArchive> OpenTorchLegacy(const MappedFile& file) {
  absl::StatusOr<TorchArchive> archive = Open(file);
  if (!archive.ok()) return Within(file.name(), archive.status());
  return archive;
}

}  // namespace optserve
