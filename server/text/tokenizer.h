#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/text/bpe.h"
#include "server/text/pretokenizer.h"
#include "server/text/tokenizer_files.h"

namespace optserve {

struct EncodeOptions {
  bool add_special_tokens = true;    // BOS in front, when the model's tokenizer does that
  bool parse_special_tokens = true;  // </s> and <pad> in the text become their ids; else they are ordinary text
};

// Part of a text, in code points: [begin, end).
struct TextSpan {
  int32_t begin = 0;
  int32_t end = 0;
  bool operator==(const TextSpan&) const = default;
};

struct Encoding {
  std::vector<int32_t> ids;
  std::vector<TextSpan> offsets;  // per id; ids that share a character share its range; an added BOS is [0, 0)
};

// OPT's byte-level BPE: text to token ids and back, as Hugging Face's GPT2Tokenizer does it with OPT's settings.
//
// Every byte has a token, so any text can be encoded, and Decode(Encode(text)) is the text. Immutable once loaded: any
// thread may call any of it. Nothing is cached between calls.
//
// Time    n log n in the text, whatever it says. Measured figures are in server/README.md.
// Source  Radford et al. 2019 (GPT-2), sec. 2.2; Sennrich et al. 2016.
class Tokenizer {
 public:
  // Reads vocab.json, merges.txt and, where present, tokenizer_config.json and special_tokens_map.json.
  // Errors: see ReadTokenizerFiles. NotFound: the directory has no tokenizer, the model serves ids only.
  static absl::StatusOr<Tokenizer> Load(const std::filesystem::path& directory);

  // The ids of `text`. InvalidArgument when it is not well-formed UTF-8 or longer than 2^31 - 1 bytes.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, const EncodeOptions& options = {}) const;
  absl::StatusOr<Encoding> EncodeWithOffsets(std::string_view text, const EncodeOptions& options = {}) const;

  // The text of `ids`; bytes that are not UTF-8 become U+FFFD. `skip_special`: special tokens show nothing. Ids without
  // a token (out of range, or a row of the embedding that the vocabulary does not name) show nothing either.
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const;

  // The bytes that token `id` stands for; empty when there is no such token. Lives as long as the tokenizer.
  std::string_view TokenBytes(int32_t id) const {
    if (id < 0 || id >= size()) return {};
    return std::string_view(bytes_).substr(token_begin_[id], token_begin_[id + 1] - token_begin_[id]);
  }

  // The token by itself, for lists of log probabilities; different ids never show the same. Its text when that is
  // UTF-8, else its bytes as `bytes:\xe2\x80`; `token_id:N` for an id without a token.
  std::string TokenText(int32_t id) const;

  bool IsSpecial(int32_t id) const { return id >= 0 && id < size() && is_special_[id]; }

  // One past the highest id.
  int32_t size() const { return static_cast<int32_t>(token_begin_.size()) - 1; }

  std::optional<int32_t> bos_id() const { return bos_id_; }
  std::optional<int32_t> eos_id() const { return eos_id_; }
  std::optional<int32_t> pad_id() const { return pad_id_; }
  std::optional<int32_t> unk_id() const { return unk_id_; }
  bool adds_bos() const { return add_bos_; }

 private:
  Tokenizer(const TokenizerFiles& files, MergeTable merges, Pretokenizer pretokenizer);

  // The added token that `text` starts with, the longest if there are several.
  std::optional<int32_t> AddedTokenAtStart(std::string_view text) const;

  // Appends the ids of `text`, in which no added token is looked for.
  absl::Status EncodeLiteral(std::string_view text, std::vector<int32_t>& ids) const;

  std::string bytes_;                  // all tokens, one after the other
  std::vector<uint32_t> token_begin_;  // [size() + 1], into bytes_
  std::vector<bool> is_special_;       // [size()]
  std::array<int32_t, 256> byte_ids_;  // the token of each single byte
  MergeTable merges_;
  Pretokenizer pretokenizer_;
  std::array<std::vector<int32_t>, 256> added_by_first_byte_;  // longest first
  std::optional<int32_t> bos_id_;
  std::optional<int32_t> eos_id_;
  std::optional<int32_t> pad_id_;
  std::optional<int32_t> unk_id_;
  bool add_bos_ = false;
};

}  // namespace optserve
