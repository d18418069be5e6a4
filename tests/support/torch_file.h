#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace optserve {

// Writes pickles and zips byte by byte, the right ones and the wrong ones.

namespace pickle {

std::string Int(int64_t value);  // BININT, or LONG1 beyond 32 bits
std::string Text(std::string_view text);
std::string Global(std::string_view module, std::string_view name);
std::string Tuple(const std::vector<std::string>& items);
std::string Call(const std::string& callee, const std::vector<std::string>& arguments);
std::string Dict(const std::vector<std::pair<std::string, std::string>>& items);
std::string Start(std::string_view program);  // with the protocol in front
std::string Whole(std::string_view value);    // with the protocol in front, and the end

std::string Storage(std::string_view storage_class, std::string_view key, int64_t elements);
std::string Tensor(const std::string& storage, int64_t offset, const std::vector<int64_t>& sizes,
                   const std::vector<int64_t>& strides);

}  // namespace pickle

struct ZipFile {
  struct Member {
    std::string name;
    std::string bytes;
    uint16_t method = 0;
    uint16_t flags = 0;
    std::string local_name;  // if another than `name`
    int local_method = -1;   // if another than `method`
    int local_flags = -1;    // if others than `flags`
    int64_t header_at = -1;  // if not behind the member before, but within the file that is already there
  };
  std::vector<Member> members;
  bool with_64_bit_end = false;

  std::string Write() const;
};

// What torch.save writes: the pickle of `object` and storages "0", "1", ...
std::string TorchZip(const std::string& object, const std::vector<std::string>& storages);

}  // namespace optserve
