#include "tests/support/api_cases.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

namespace optserve {
namespace {

using Json = nlohmann::json;

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

std::optional<std::string> StringOrNull(const Json& value) {
  return value.is_null() ? std::nullopt : std::optional(value.get<std::string>());
}

ApiCase ReadCase(const std::string& file, const Json& json) {
  ApiCase api_case{.name = file + ": " + json.at("name").get<std::string>(), .status = json.at("status").get<int>()};
  if (json.contains("body")) {
    api_case.body = json["body"].dump();
  } else if (json.contains("text")) {
    api_case.body = json["text"].get<std::string>();
  } else {
    api_case.body = FromHex(json.at("hex").get<std::string>());
  }
  if (api_case.status == 200) return api_case;
  api_case.param = StringOrNull(json.at("param"));
  api_case.code = StringOrNull(json.at("code"));
  api_case.message = json.value("message", "");
  return api_case;
}

}  // namespace

std::vector<ApiCase> ReadApiCases() {
  std::set<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(OPTSERVE_SOURCE_DIR) + "/tests/api/cases")) {
    if (entry.path().extension() == ".json") paths.insert(entry.path());
  }
  std::vector<ApiCase> cases;
  for (const std::filesystem::path& path : paths) {
    const Json file = Json::parse(std::ifstream(path));
    for (const Json& json : file.at("cases")) cases.push_back(ReadCase(path.stem().string(), json));
  }
  if (cases.empty()) throw std::runtime_error("tests/api/cases is empty");
  return cases;
}

}  // namespace optserve
