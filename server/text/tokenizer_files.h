#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace optserve {

// What the tokenizer files of a model directory say, checked: Tokenizer builds its tables from it.
//
//   vocab.json               token (in GPT-2's byte alphabet) -> id
//   merges.txt               one pair of tokens a line, most important first; the first line may be a #version
//   tokenizer_config.json    optional: special tokens, add_bos_token, added_tokens_decoder
//   special_tokens_map.json  optional: special tokens; where it and tokenizer_config.json differ, it wins
//
// Without the last two, OPT's own settings hold: bos, eos and unk are </s>, pad is <pad>, BOS is put in front.
// Source  byte alphabet: Radford et al. 2019 (GPT-2), encoder.py, bytes_to_unicode().
struct TokenizerFiles {
  struct Merge {
    int32_t left = 0;
    int32_t right = 0;
    int32_t result = 0;
  };

  // A token that is found in text as it stands, before the text is cut into words.
  struct AddedToken {
    int32_t id = 0;
    bool is_special = true;  // dropped by skip_special
  };

  std::vector<std::string> tokens;  // [id]: raw bytes; empty where an id has no token
  std::vector<Merge> merges;        // by rank
  std::vector<AddedToken> added;    // each id once
  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
  std::optional<int32_t> pad_id;
  std::optional<int32_t> unk_id;
  bool add_bos = true;
};

// Reads and checks the files in `directory`.
//
// Bounds  64 MiB for vocab.json and merges.txt, 4 MiB for the others, ids below 2^20, 1024 added tokens.
// Errors  NotFound when there is neither vocab.json nor merges.txt: the model can be served for ids only.
//         InvalidArgument when a file is broken, or merges.txt ends before all of vocab.json's tokens are made; the
//         text names the file and what is wrong in it.
absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::filesystem::path& directory);

}  // namespace optserve
