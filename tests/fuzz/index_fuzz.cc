// JSON that comes with a model, and the index of a sharded checkpoint. What we take, another reader takes too, and an
// index leads to bare file names only.

#include <nlohmann/json.hpp>

#include "engine/checkpoint/shard_index.h"
#include "engine/checkpoint/strict_json.h"
#include "tests/fuzz/fuzz.h"

using namespace optserve;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input = fuzz::Text(data, size);
  const auto json = ParseStrictJson(input);
  if (json.ok()) {
    FUZZ_CHECK(nlohmann::json::parse(input, nullptr, false) == *json);
    const auto again = ParseStrictJson(json->dump());
    FUZZ_CHECK(again.ok() && *again == *json);
  }
  const auto index = ParseShardIndex(input, "model.safetensors.index.json");
  if (!index.ok()) {
    FUZZ_CHECK(fuzz::Message(index.status()).starts_with("model.safetensors.index.json: "));
    FUZZ_CHECK(fuzz::Message(index.status()).find('\n') == std::string_view::npos);
    return 0;
  }
  FUZZ_CHECK(json.ok());
  for (const auto& [tensor, file] : *index) FUZZ_CHECK(IsBareFileName(file));
  return 0;
}
