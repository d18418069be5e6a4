#include "engine/checkpoint/zip_directory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <unordered_set>
#include <utility>

#include "engine/checkpoint/checked_size.h"
#include "engine/checkpoint/read_ahead.h"
#include "engine/util/model_directory.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kLocator64Signature = 0x07064b50;
constexpr uint32_t kEntrySignature = 0x02014b50;
constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint64_t kEndBytes = 22;
constexpr uint64_t kEnd64Bytes = 56;
constexpr uint64_t kLocator64Bytes = 20;
constexpr uint64_t kEntryBytes = 46;
constexpr uint64_t kLocalBytes = 30;
constexpr uint64_t kMaxComment = 0xffff;
constexpr uint32_t kIn64 = 0xffffffff;  // the value is in the 64-bit record
constexpr uint64_t kMaxMembers = 200'000;
constexpr uint16_t kEncrypted = 1;

// Little-endian numbers at places that are known to be within the bytes.
class Fields {
 public:
  explicit Fields(std::span<const std::byte> bytes) : bytes_(bytes) {}

  uint16_t U16(uint64_t at) const { return Get<uint16_t>(at); }
  uint32_t U32(uint64_t at) const { return Get<uint32_t>(at); }
  uint64_t U64(uint64_t at) const { return Get<uint64_t>(at); }
  bool Has(CheckedSize at, CheckedSize count) const { return at + count <= bytes_.size(); }
  std::string_view Text(uint64_t at, uint64_t count) const {
    return {reinterpret_cast<const char*>(bytes_.data()) + at, count};
  }
  std::span<const std::byte> Bytes(uint64_t at, uint64_t count) const { return bytes_.subspan(at, count); }
  uint64_t size() const { return bytes_.size(); }

 private:
  template <typename T>
  T Get(uint64_t at) const {
    T value;
    std::memcpy(&value, bytes_.data() + at, sizeof(value));
    return value;
  }

  std::span<const std::byte> bytes_;
};

struct Directory {
  uint64_t begin = 0;
  uint64_t size = 0;
  uint64_t num_members = 0;
};

// The end record is the last thing in the file, before a comment whose length it states.
std::optional<uint64_t> FindEnd(const Fields& file) {
  if (file.size() < kEndBytes) return std::nullopt;
  const uint64_t last = file.size() - kEndBytes;
  const uint64_t first = last > kMaxComment ? last - kMaxComment : 0;
  for (uint64_t at = last + 1; at-- > first;) {
    if (file.U32(at) == kEndSignature && at + kEndBytes + file.U16(at + 20) == file.size()) return at;
  }
  return std::nullopt;
}

absl::StatusOr<Directory> FindDirectory(const Fields& file) {
  const std::optional<uint64_t> end = FindEnd(file);
  if (!end) return InvalidArgument("no end of a zip file: it is cut off");
  Directory directory{.begin = file.U32(*end + 16), .size = file.U32(*end + 12), .num_members = file.U16(*end + 10)};
  uint64_t directory_end = *end;
  const bool has_64 = *end >= kLocator64Bytes && file.U32(*end - kLocator64Bytes) == kLocator64Signature;
  if (has_64) {
    const uint64_t at = file.U64(*end - kLocator64Bytes + 8);
    if (!(CheckedSize(at) + kEnd64Bytes <= *end - kLocator64Bytes) || file.U32(at) != kEnd64Signature) {
      return InvalidArgument("the 64-bit end record is not where it should be");
    }
    const Directory wide{.begin = file.U64(at + 48), .size = file.U64(at + 40), .num_members = file.U64(at + 32)};
    const bool agree = (directory.begin == kIn64 || directory.begin == wide.begin) &&
                       (directory.size == kIn64 || directory.size == wide.size) &&
                       (directory.num_members == 0xffff || directory.num_members == wide.num_members);
    if (!agree) return InvalidArgument("the two end records contradict each other");
    directory = wide;
    directory_end = at;
  }
  if (!(CheckedSize(directory.begin) + directory.size == CheckedSize(directory_end))) {
    return InvalidArgument("the directory is not where the end record says");
  }
  if (directory.num_members > kMaxMembers) return InvalidArgument("{} members", directory.num_members);
  return directory;
}

struct Entry {
  std::string_view name;
  uint16_t flags = 0;
  uint16_t method = 0;
  uint64_t stored_size = 0;
  uint64_t size = 0;
  uint64_t header_at = 0;
  uint64_t data_end = 0;  // once the local header is read
};

// Replaces the sizes that are too large for 32 bits by those of the 64-bit extra field.
absl::Status Widen(const Fields& file, uint64_t extra_at, uint64_t extra_size, Entry* entry) {
  std::vector<uint64_t*> wanted;
  for (uint64_t* field : {&entry->size, &entry->stored_size, &entry->header_at}) {
    if (*field == kIn64) wanted.push_back(field);
  }
  const uint64_t end = extra_at + extra_size;
  for (uint64_t at = extra_at; !wanted.empty() && at + 4 <= end;) {
    const uint64_t size = file.U16(at + 2);
    if (at + 4 + size > end) break;
    if (file.U16(at) == 1) {
      if (size < 8 * wanted.size()) break;
      for (size_t i = 0; i < wanted.size(); ++i) *wanted[i] = file.U64(at + 4 + 8 * i);
      return absl::OkStatus();
    }
    at += 4 + size;
  }
  // A member of exactly 4 GiB - 1 needs no 64-bit field; torch writes none that long.
  return wanted.empty() ? absl::OkStatus() : InvalidArgument("member {} lacks its size", Printable(entry->name));
}

absl::StatusOr<std::vector<Entry>> ReadEntries(const Fields& file, const Directory& directory) {
  std::vector<Entry> entries;
  uint64_t at = directory.begin;
  const uint64_t end = directory.begin + directory.size;
  for (uint64_t i = 0; i < directory.num_members; ++i) {
    if (at + kEntryBytes > end || file.U32(at) != kEntrySignature) return InvalidArgument("the directory is broken");
    const uint64_t name_size = file.U16(at + 28), extra_size = file.U16(at + 30), comment_size = file.U16(at + 32);
    const uint64_t next = at + kEntryBytes + name_size + extra_size + comment_size;
    if (next > end) return InvalidArgument("the directory is broken");
    Entry entry{.name = file.Text(at + kEntryBytes, name_size),
                .flags = file.U16(at + 8),
                .method = file.U16(at + 10),
                .stored_size = file.U32(at + 20),
                .size = file.U32(at + 24),
                .header_at = file.U32(at + 42)};
    if (file.U16(at + 34) != 0) return InvalidArgument("a zip file of several disks");
    OPTSERVE_RETURN_IF_ERROR(Widen(file, at + kEntryBytes + name_size, extra_size, &entry));
    entries.push_back(entry);
    at = next;
  }
  if (at != end) return InvalidArgument("the directory has bytes of no member");
  return entries;
}

// The local headers are strewn over the file, one before each member's bytes.
void StartReadingHeaders(const Fields& file, uint64_t limit, const std::vector<Entry>& entries) {
  for (const Entry& entry : entries) {
    const CheckedSize end = CheckedSize(entry.header_at) + kLocalBytes + entry.name.size();
    if (end <= limit) StartReading(file.Bytes(entry.header_at, end.value() - entry.header_at));
  }
}

// Finds the member's bytes, or says why they cannot be used.
std::string Locate(const Fields& file, uint64_t limit, Entry* entry, std::span<const std::byte>* bytes) {
  if ((entry->flags & kEncrypted) != 0) return "is encrypted";
  if (entry->method != 0) return "is compressed; torch.save compresses nothing";
  if (entry->stored_size != entry->size) return "states two sizes";
  if (!(CheckedSize(entry->header_at) + kLocalBytes <= limit) || file.U32(entry->header_at) != kLocalSignature) {
    return "is not where the directory says";
  }
  const uint64_t at = entry->header_at;
  const uint64_t name_size = file.U16(at + 26), extra_size = file.U16(at + 28);
  const CheckedSize begin = CheckedSize(at) + kLocalBytes + name_size + extra_size;
  if (!(begin <= limit) || file.Text(at + kLocalBytes, name_size) != entry->name || file.U16(at + 8) != entry->method ||
      ((file.U16(at + 6) ^ entry->flags) & kEncrypted) != 0) {
    return "is described differently in its own header and in the directory";
  }
  if (!(begin + entry->size <= limit)) {
    return fmt::format("should have {} bytes, more than the file has left", entry->size);
  }
  entry->data_end = begin.value() + entry->size;
  *bytes = file.Bytes(begin.value(), entry->size);
  return "";
}

// Members lie one behind the other.
void FindOverlaps(const std::vector<Entry>& entries, std::vector<ZipMember>* members) {
  std::vector<size_t> order;
  for (size_t i = 0; i < entries.size(); ++i) {
    if ((*members)[i].problem.empty()) order.push_back(i);
  }
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return entries[a].header_at < entries[b].header_at; });
  size_t furthest = 0;  // in `order`: of those so far, the one that ends last
  for (size_t i = 1; i < order.size(); ++i) {
    const Entry& before = entries[order[furthest]];
    if (before.data_end > entries[order[i]].header_at) {
      (*members)[order[i]].problem = fmt::format("shares bytes with {}", Printable(before.name));
    }
    if (entries[order[i]].data_end > before.data_end) furthest = i;
  }
}

}  // namespace

absl::StatusOr<std::vector<ZipMember>> ReadZipDirectory(std::span<const std::byte> file) {
  const Fields fields(file);
  OPTSERVE_ASSIGN_OR_RETURN(const Directory directory, FindDirectory(fields));
  OPTSERVE_ASSIGN_OR_RETURN(std::vector<Entry> entries, ReadEntries(fields, directory));
  StartReadingHeaders(fields, directory.begin, entries);
  std::vector<ZipMember> members;
  members.reserve(entries.size());
  std::unordered_set<std::string_view> names;
  for (Entry& entry : entries) {
    if (!names.insert(entry.name).second) return InvalidArgument("member {} is there twice", Printable(entry.name));
    ZipMember& member = members.emplace_back();
    member.name = std::string(entry.name);
    member.problem = Locate(fields, directory.begin, &entry, &member.bytes);
  }
  FindOverlaps(entries, &members);
  return members;
}

}  // namespace optserve
