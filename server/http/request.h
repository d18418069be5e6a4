#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace optserve {

// An HTTP request as it was sent, in parts; plain data.
struct HttpRequest {
  std::string method;
  std::string path;  // without the query, not decoded
  std::string query;
  int minor_version = 1;                                    // HTTP/1.x
  std::vector<std::pair<std::string, std::string>> fields;  // in order; names in lower case, values trimmed
  std::string body;
  bool keep_alive = true;
  bool expects_continue = false;  // the client waits for "100 Continue" before it sends the body

  // The first field of that (lower-case) name; empty if there is none.
  std::string_view Field(std::string_view name) const {
    for (const auto& [field_name, value] : fields) {
      if (field_name == name) return value;
    }
    return {};
  }

  // All fields of that name, in order.
  std::vector<std::string_view> Fields(std::string_view name) const {
    std::vector<std::string_view> values;
    for (const auto& [field_name, value] : fields) {
      if (field_name == name) values.push_back(value);
    }
    return values;
  }
};

}  // namespace optserve
