// A model's tokenizer files, one after the other with a zero byte between: vocab.json, merges.txt,
// tokenizer_config.json, special_tokens_map.json. A tokenizer that loads can say every token and gives texts back.

#include <array>
#include <vector>

#include "server/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

using namespace optserve;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr std::array kFiles = {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"};
  std::string_view input = fuzz::Text(data, size);
  for (const char* name : kFiles) {
    const bool is_there = !input.empty();
    const std::string_view part = fuzz::TakePart(input);
    std::filesystem::remove(fuzz::ScratchFolder() / name);
    if (is_there) fuzz::WriteFile(fuzz::ScratchFolder() / name, part);
  }
  const auto tokenizer = Tokenizer::Load(fuzz::ScratchFolder());
  if (!tokenizer.ok()) {
    FUZZ_CHECK(absl::IsInvalidArgument(tokenizer.status()) || absl::IsNotFound(tokenizer.status()));
    FUZZ_CHECK(fuzz::Message(tokenizer.status()).find('\n') == std::string_view::npos);
    return 0;
  }
  for (const auto& id : {tokenizer->bos_id(), tokenizer->eos_id(), tokenizer->pad_id(), tokenizer->unk_id()}) {
    FUZZ_CHECK(!id || (*id >= 0 && *id < tokenizer->size()));
  }
  for (int32_t id = -1; id <= std::min(tokenizer->size(), 2048); ++id) {
    FUZZ_CHECK(!tokenizer->TokenText(id).empty() || tokenizer->TokenBytes(id).empty());
  }
  for (const std::string_view text : {"Call me", "a  b\n\xC3\xA9", "</s><pad>"}) {
    const auto ids = tokenizer->Encode(text, {.add_special_tokens = false});
    if (ids.ok()) FUZZ_CHECK(tokenizer->Decode(*ids, /*skip_special=*/false) == text);
  }
  return 0;
}
