#include "server/text/tokenizer.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/text/utf8.h"

namespace optserve {
namespace {

absl::StatusOr<MergeTable> BuildMergeTable(std::span<const TokenizerFiles::Merge> merges) {
  MergeTable table(merges.size());
  for (uint32_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right, result] = merges[rank];
    if (!table.Insert(left, right, {.rank = rank, .result = result})) {
      return InvalidArgument("merges.txt: merge {} of ids {} and {} is there twice", rank + 1, left, right);
    }
  }
  return table;
}

// Where tokens of these lengths, one after the other, lie in `text`.
class OffsetCounter {
 public:
  explicit OffsetCounter(std::string_view text) : text_(text) {}

  TextSpan Next(size_t num_bytes) {
    if (num_bytes == 0) return {.begin = num_characters_, .end = num_characters_};
    // A token that starts inside a character shares the character that the token before it began.
    const std::string_view token = text_.substr(pos_, num_bytes);
    const bool starts_character = (static_cast<uint8_t>(token[0]) & 0xC0) != 0x80;
    const int32_t begin = starts_character ? num_characters_ : num_characters_ - 1;
    num_characters_ += static_cast<int32_t>(CountCodePoints(token));
    pos_ += num_bytes;
    return {.begin = begin, .end = num_characters_};
  }

 private:
  std::string_view text_;
  size_t pos_ = 0;
  int32_t num_characters_ = 0;  // characters that begin before pos_
};

}  // namespace

absl::StatusOr<Tokenizer> Tokenizer::Load(const std::filesystem::path& directory) {
  OPTSERVE_ASSIGN_OR_RETURN(const TokenizerFiles files, ReadTokenizerFiles(directory));
  OPTSERVE_ASSIGN_OR_RETURN(MergeTable merges, BuildMergeTable(files.merges));
  OPTSERVE_ASSIGN_OR_RETURN(Pretokenizer pretokenizer, Pretokenizer::Create());
  return Tokenizer(files, std::move(merges), std::move(pretokenizer));
}

Tokenizer::Tokenizer(const TokenizerFiles& files, MergeTable merges, Pretokenizer pretokenizer)
    : is_special_(files.tokens.size()),
      merges_(std::move(merges)),
      pretokenizer_(std::move(pretokenizer)),
      bos_id_(files.bos_id),
      eos_id_(files.eos_id),
      pad_id_(files.pad_id),
      unk_id_(files.unk_id),
      add_bos_(files.add_bos) {
  token_begin_.reserve(files.tokens.size() + 1);
  token_begin_.push_back(0);
  for (const std::string& token : files.tokens) {
    bytes_ += token;
    token_begin_.push_back(static_cast<uint32_t>(bytes_.size()));
    if (token.size() == 1) byte_ids_[static_cast<uint8_t>(token[0])] = static_cast<int32_t>(token_begin_.size()) - 2;
  }
  for (const TokenizerFiles::AddedToken& token : files.added) {
    is_special_[token.id] = token.is_special;
    added_by_first_byte_[static_cast<uint8_t>(TokenBytes(token.id)[0])].push_back(token.id);
  }
  for (std::vector<int32_t>& ids : added_by_first_byte_) {
    std::ranges::sort(ids, std::greater<>(), [this](int32_t id) { return TokenBytes(id).size(); });
  }
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return InvalidArgument("the text has {} bytes, the limit is 2^31 - 1", text.size());
  }
  if (const std::optional<size_t> invalid = FindInvalidUtf8(text)) {
    return InvalidArgument("the text is not UTF-8: bad byte at offset {}", *invalid);
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 1);  // English prose has 4.4 bytes per token
  if (options.add_special_tokens && add_bos_) ids.push_back(*bos_id_);
  size_t literal_begin = 0;
  for (size_t pos = 0; options.parse_special_tokens && pos < text.size();) {
    const std::optional<int32_t> added = AddedTokenAtStart(text.substr(pos));
    if (!added.has_value()) {
      ++pos;
      continue;
    }
    OPTSERVE_RETURN_IF_ERROR(EncodeLiteral(text.substr(literal_begin, pos - literal_begin), ids));
    ids.push_back(*added);
    pos += TokenBytes(*added).size();
    literal_begin = pos;
  }
  OPTSERVE_RETURN_IF_ERROR(EncodeLiteral(text.substr(literal_begin), ids));
  return ids;
}

absl::StatusOr<Encoding> Tokenizer::EncodeWithOffsets(std::string_view text, const EncodeOptions& options) const {
  Encoding encoding;
  OPTSERVE_ASSIGN_OR_RETURN(encoding.ids, Encode(text, options));
  encoding.offsets.reserve(encoding.ids.size());
  OffsetCounter counter(text);
  const size_t num_added_bos = options.add_special_tokens && add_bos_ ? 1 : 0;
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    encoding.offsets.push_back(counter.Next(i < num_added_bos ? 0 : TokenBytes(encoding.ids[i]).size()));
  }
  return encoding;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  Utf8Stream stream;
  std::string bytes;
  for (const int32_t id : ids) {
    if (!skip_special || !IsSpecial(id)) bytes += TokenBytes(id);
  }
  std::string text = stream.Push(bytes);
  text += stream.Flush();
  return text;
}

std::string Tokenizer::TokenText(int32_t id) const {
  const std::string_view bytes = TokenBytes(id);
  if (bytes.empty()) return fmt::format("token_id:{}", id);
  if (!FindInvalidUtf8(bytes)) return std::string(bytes);
  std::string text = "bytes:";
  for (const char byte : bytes) text += fmt::format("\\x{:02x}", static_cast<uint8_t>(byte));
  return text;
}

std::optional<int32_t> Tokenizer::AddedTokenAtStart(std::string_view text) const {
  for (const int32_t id : added_by_first_byte_[static_cast<uint8_t>(text[0])]) {
    if (text.starts_with(TokenBytes(id))) return id;
  }
  return std::nullopt;
}

absl::Status Tokenizer::EncodeLiteral(std::string_view text, std::vector<int32_t>& ids) const {
  std::vector<std::string_view> words;
  OPTSERVE_RETURN_IF_ERROR(pretokenizer_.Split(text, words));
  std::vector<int32_t> tokens;
  for (const std::string_view word : words) {
    tokens.clear();
    for (const char byte : word) tokens.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
    ApplyMerges(merges_, tokens, ids);
  }
  return absl::OkStatus();
}

}  // namespace optserve
