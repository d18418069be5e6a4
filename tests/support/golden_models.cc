#include "tests/support/golden_models.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/support/test_data.h"

namespace optserve {
namespace {

using Json = nlohmann::json;

GoldenPrompt ParsePrompt(const Json& json) {
  GoldenPrompt prompt;
  prompt.name = json["name"];
  prompt.ids = json["ids"].get<std::vector<int32_t>>();
  for (const Json& value : json["token_logprobs"]) {
    if (!value.is_null()) prompt.token_logprobs.push_back(value);
  }
  for (const Json& top : json["top5"]) {
    prompt.top5.push_back({.ids = top["ids"], .logprobs = top["logprobs"].get<std::vector<float>>()});
  }
  prompt.first_logits = json["logits_last"]["first16"].get<std::vector<float>>();
  prompt.argmax = json["logits_last"]["argmax"];
  prompt.logsumexp = json["logits_last"]["logsumexp"];
  prompt.greedy_ids = json["greedy"]["ids"].get<std::vector<int32_t>>();
  prompt.greedy_logprobs = json["greedy"]["logprobs"].get<std::vector<float>>();
  return prompt;
}

}  // namespace

std::vector<std::string> GoldenModelNames(const std::vector<std::string>& formats) {
  std::vector<std::string> names;
  for (const Json& golden : Json::parse(ReadTestData("golden/cases.json"))) {
    const std::filesystem::path folder = TestDataPath("golden/" + golden["path"].get<std::string>());
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const std::string extension = entry.path().extension().string();
      if (std::any_of(formats.begin(), formats.end(), [&](const auto& format) { return extension == "." + format; })) {
        names.push_back(golden["name"]);
        break;
      }
    }
  }
  return names;
}

GoldenModel LoadGoldenModel(const std::string& name) {
  for (const Json& golden : Json::parse(ReadTestData("golden/cases.json"))) {
    if (golden["name"] != name) continue;
    GoldenModel model{.name = name};
    model.directory = TestDataPath("golden/" + golden["path"].get<std::string>()).string();
    const Json expected = Json::parse(ReadTestData("golden/" + golden["expected"].get<std::string>()));
    model.eos_token_ids = expected["eos_token_ids"].get<std::vector<int32_t>>();
    model.vocab_size = expected["vocab_size"];
    for (const Json& prompt : expected["prompts"]) model.prompts.push_back(ParsePrompt(prompt));
    return model;
  }
  throw std::runtime_error("no golden model " + name);
}

}  // namespace optserve
