#include "tests/support/torch_file.h"

#include <cstring>
#include <initializer_list>
#include <utility>

namespace optserve {
namespace {

template <typename T>
std::string Raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

// Joins without operator+, of which GCC 12 believes that it may overlap itself (its bug 105651).
std::string Join(std::initializer_list<std::string_view> parts) {
  std::string joined;
  for (const std::string_view part : parts) joined.append(part);
  return joined;
}

}  // namespace

namespace pickle {

std::string Int(int64_t value) {
  if (value == static_cast<int32_t>(value)) return Join({"J", Raw(static_cast<int32_t>(value))});
  return Join({"\x8a\x08", Raw(value)});
}

std::string Text(std::string_view text) { return Join({"X", Raw(static_cast<uint32_t>(text.size())), text}); }

std::string Global(std::string_view module, std::string_view name) { return Join({"c", module, "\n", name, "\n"}); }

std::string Tuple(const std::vector<std::string>& items) {
  std::string tuple = "(";
  for (const std::string& item : items) tuple.append(item);
  return tuple.append("t");
}

std::string Call(const std::string& callee, const std::vector<std::string>& arguments) {
  return Join({callee, Tuple(arguments), "R"});
}

std::string Dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string dict = "}(";
  for (const auto& [key, value] : items) dict.append(Text(key)).append(value);
  return dict.append("u");
}

std::string Start(std::string_view program) { return Join({"\x80\x02", program}); }

std::string Whole(std::string_view value) { return Join({"\x80\x02", value, "."}); }

std::string Storage(std::string_view storage_class, std::string_view key, int64_t elements) {
  return Tuple({Text("storage"), Global("torch", storage_class), Text(key), Text("cpu"), Int(elements)}).append("Q");
}

std::string Tensor(const std::string& storage, int64_t offset, const std::vector<int64_t>& sizes,
                   const std::vector<int64_t>& strides) {
  const auto tuple_of = [](const std::vector<int64_t>& values) {
    std::vector<std::string> items;
    for (const int64_t value : values) items.push_back(Int(value));
    return Tuple(items);
  };
  return Call(Global("torch._utils", "_rebuild_tensor_v2"), {storage, Int(offset), tuple_of(sizes), tuple_of(strides),
                                                             "\x89", Call(Global("collections", "OrderedDict"), {})});
}

}  // namespace pickle

std::string ZipFile::Write() const {
  std::string file, directory;
  for (const Member& member : members) {
    const auto at = static_cast<uint32_t>(member.header_at < 0 ? file.size() : static_cast<size_t>(member.header_at));
    const auto size = static_cast<uint32_t>(member.bytes.size());
    const auto local_flags = static_cast<uint16_t>(member.local_flags < 0 ? member.flags : member.local_flags);
    const auto local_method = static_cast<uint16_t>(member.local_method < 0 ? member.method : member.local_method);
    const std::string& local_name = member.local_name.empty() ? member.name : member.local_name;
    const std::string times_and_crc(8, '\0');
    if (member.header_at < 0) {
      file +=
          Join({"PK\x03\x04", Raw<uint16_t>(20), Raw(local_flags), Raw(local_method), times_and_crc, Raw(size),
                Raw(size), Raw(static_cast<uint16_t>(local_name.size())), Raw<uint16_t>(0), local_name, member.bytes});
    }
    directory +=
        Join({"PK\x01\x02", Raw<uint16_t>(20), Raw<uint16_t>(20), Raw(member.flags), Raw(member.method), times_and_crc,
              Raw(size), Raw(size), Raw(static_cast<uint16_t>(member.name.size())), Raw<uint16_t>(0), Raw<uint16_t>(0),
              Raw<uint16_t>(0), Raw<uint16_t>(0), Raw<uint32_t>(0), Raw(at), member.name});
  }
  const auto begin = static_cast<uint32_t>(file.size());
  const auto count = static_cast<uint16_t>(members.size());
  const auto size = static_cast<uint32_t>(directory.size());
  file += directory;
  if (with_64_bit_end) {
    const uint64_t end_at = file.size();
    file +=
        Join({"PK\x06\x06", Raw<uint64_t>(44), Raw<uint16_t>(45), Raw<uint16_t>(45), Raw<uint32_t>(0), Raw<uint32_t>(0),
              Raw<uint64_t>(count), Raw<uint64_t>(count), Raw<uint64_t>(size), Raw<uint64_t>(begin)});
    file += Join({"PK\x06\x07", Raw<uint32_t>(0), Raw(end_at), Raw<uint32_t>(1)});
    return Join({file, "PK\x05\x06", Raw<uint32_t>(0), Raw<uint16_t>(0xffff), Raw<uint16_t>(0xffff),
                 Raw<uint32_t>(0xffffffff), Raw<uint32_t>(0xffffffff), Raw<uint16_t>(0)});
  }
  return Join({file, "PK\x05\x06", Raw<uint32_t>(0), Raw(count), Raw(count), Raw(size), Raw(begin), Raw<uint16_t>(0)});
}

std::string TorchZip(const std::string& object, const std::vector<std::string>& storages) {
  ZipFile zip{.members = {{.name = "archive/data.pkl", .bytes = pickle::Whole(object)},
                          {.name = "archive/byteorder", .bytes = "little"},
                          {.name = "archive/version", .bytes = "3\n"}},
              .with_64_bit_end = true};
  for (size_t i = 0; i < storages.size(); ++i) {
    zip.members.push_back({.name = "archive/data/" + std::to_string(i), .bytes = storages[i]});
  }
  return zip.Write();
}

}  // namespace optserve
