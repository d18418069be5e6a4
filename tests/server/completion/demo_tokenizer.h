#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "server/text/tokenizer.h"
#include "tests/support/test_data.h"

namespace optserve {

// The demo model's tokenizer: 4096 ids, one for every byte, `</s>` is 2.
inline const Tokenizer& DemoTokenizer() {
  static const Tokenizer tokenizer = Tokenizer::Load(DemoModelPath()).value();
  return tokenizer;
}

// The id of the token that is exactly these bytes; the test fails without one.
inline int32_t IdOf(std::string_view bytes) {
  static const auto ids = [] {
    std::unordered_map<std::string_view, int32_t> map;
    for (int32_t id = 0; id < DemoTokenizer().size(); ++id) map.emplace(DemoTokenizer().TokenBytes(id), id);
    return map;
  }();
  return ids.at(bytes);
}

inline std::vector<int32_t> IdsOf(const std::vector<std::string_view>& tokens) {
  std::vector<int32_t> ids;
  for (const std::string_view token : tokens) ids.push_back(IdOf(token));
  return ids;
}

// One token for each byte.
inline std::vector<int32_t> ByteIds(std::string_view bytes) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < bytes.size(); ++i) ids.push_back(IdOf(bytes.substr(i, 1)));
  return ids;
}

}  // namespace optserve
