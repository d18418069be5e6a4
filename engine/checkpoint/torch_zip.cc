#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/checkpoint/torch_archive.h"
#include "engine/checkpoint/zip_directory.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

using Members = std::unordered_map<std::string_view, const ZipMember*>;  // by the name behind the top folder

std::string_view Text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

absl::StatusOr<std::span<const std::byte>> BytesOf(const Members& members, const std::string& name) {
  const auto found = members.find(name);
  if (found == members.end()) return InvalidArgument("there is no {}", Printable(name));
  if (!found->second->problem.empty()) return InvalidArgument("{} {}", Printable(name), found->second->problem);
  return found->second->bytes;
}

class ZipStorages : public TorchStorages {
 public:
  ZipStorages(std::vector<ZipMember> members, size_t top_size) : members_(std::move(members)) {
    for (const ZipMember& member : members_) by_name_.emplace(std::string_view(member.name).substr(top_size), &member);
  }

  absl::StatusOr<std::span<const std::byte>> Find(std::string_view key) const override {
    return BytesOf(by_name_, "data/" + std::string(key));
  }
  const Members& by_name() const { return by_name_; }
  const std::vector<ZipMember>& members() const { return members_; }

 private:
  std::vector<ZipMember> members_;
  Members by_name_;
};

// Every member lies in the one folder that torch names after the file, or "archive".
absl::StatusOr<size_t> TopFolderSize(const std::vector<ZipMember>& members) {
  if (members.empty()) return InvalidArgument("an empty zip file");
  const size_t slash = members[0].name.find('/');
  if (slash == std::string::npos || slash == 0) {
    return InvalidArgument("member {} lies in no folder", Printable(members[0].name));
  }
  const std::string_view top = std::string_view(members[0].name).substr(0, slash + 1);
  for (const ZipMember& member : members) {
    if (!member.name.starts_with(top)) {
      return InvalidArgument("two top folders: {} and {}", Printable(members[0].name), Printable(member.name));
    }
  }
  return top.size();
}

absl::StatusOr<TorchArchive> Open(const MappedFile& file) {
  OPTSERVE_ASSIGN_OR_RETURN(std::vector<ZipMember> members, ReadZipDirectory(file.bytes()));
  OPTSERVE_ASSIGN_OR_RETURN(const size_t top_size, TopFolderSize(members));
  auto storages = std::make_unique<ZipStorages>(std::move(members), top_size);
  if (storages->by_name().contains("constants.pkl")) {
    return InvalidArgument("a TorchScript program, not a file of tensors (it has constants.pkl)");
  }
  if (storages->by_name().contains("byteorder")) {
    OPTSERVE_ASSIGN_OR_RETURN(const auto order, BytesOf(storages->by_name(), "byteorder"));
    if (Text(order) != "little")
      return InvalidArgument("byteorder is {}; only little can be read", Printable(Text(order)));
  }
  OPTSERVE_ASSIGN_OR_RETURN(const auto bytes, BytesOf(storages->by_name(), "data.pkl"));
  absl::StatusOr<Pickle> pickle = ParsePickle(bytes);
  if (!pickle.ok()) return Within("data.pkl", pickle.status());
  return TorchArchive{
      .file = file.name(), .format = "torch zip", .pickle = *std::move(pickle), .storages = std::move(storages)};
}

}  // namespace

bool LooksLikeTorchZip(const MappedFile& file) { return Text(file.bytes()).starts_with("PK\x03\x04"); }

absl::StatusOr<TorchArchive> OpenTorchZip(const MappedFile& file) {
  absl::StatusOr<TorchArchive> archive = Open(file);
  if (!archive.ok()) return Within(file.name(), archive.status());
  return archive;
}

}  // namespace optserve
