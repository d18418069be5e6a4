#pragma once

#include <optional>
#include <string>
#include <vector>

namespace optserve {

// A case of tests/api/cases: a request and what it must be answered. See the README there.
struct ApiCase {
  std::string name;  // "n: above the upper bound"
  std::string body;
  int status = 200;
  std::optional<std::string> param;
  std::optional<std::string> code;
  std::string message;  // a part of the error's
};

// All of them. Throws std::runtime_error when one is not what the README says.
std::vector<ApiCase> ReadApiCases();

}  // namespace optserve
