#include "server/text/tokenizer_files.h"

#include <array>
#include <charconv>
#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "engine/util/model_directory.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/text/utf8.h"

namespace optserve {
namespace {

using nlohmann::json;

constexpr size_t kMaxFileBytes = 64u << 20;
constexpr size_t kMaxConfigBytes = 4u << 20;  // becomes a tree, at up to 60 bytes per byte
constexpr int32_t kMaxTokens = 1 << 20;
constexpr size_t kMaxDeclaredTokens = 1024;  // each is looked for wherever its first byte stands in a text

constexpr char kVocab[] = "vocab.json";
constexpr char kMerges[] = "merges.txt";
constexpr char kConfig[] = "tokenizer_config.json";
constexpr char kSpecialTokensMap[] = "special_tokens_map.json";
constexpr char kAddedTokensDecoder[] = "added_tokens_decoder";

// A piece of a file, short enough for a message on one line.
std::string Quoted(std::string_view text) {
  constexpr size_t kLongest = 60;
  if (text.size() <= kLongest) return json(text).dump(-1, ' ', true, json::error_handler_t::replace);
  return json(text.substr(0, kLongest)).dump(-1, ' ', true, json::error_handler_t::replace) + "...";
}

// Any error is one of the file's content to who loads a tokenizer: that there is none is known before.
absl::StatusOr<std::string> ReadFile(const ModelDirectory& directory, const char* name, size_t max_bytes) {
  absl::StatusOr<std::string> content = directory.Read(name, max_bytes);
  if (!content.ok()) return absl::InvalidArgumentError(content.status().message());
  if (const std::optional<size_t> invalid = FindInvalidUtf8(*content)) {
    return InvalidArgument("{} is not UTF-8: bad byte at offset {}", name, *invalid);
  }
  return content;
}

// --- The byte alphabet --------------------------------------------------------------------------------------------

// GPT-2 writes each byte as a printable character: itself where it is one in Latin-1, else U+0100, U+0101, ... in turn.
constexpr int kNumByteCharacters = 256 + 68;

const std::array<int16_t, kNumByteCharacters>& ByteOfCharacter() {
  static const auto table = [] {
    std::array<int16_t, kNumByteCharacters> bytes;
    bytes.fill(-1);
    int next_substitute = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool is_printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      bytes[is_printable ? byte : next_substitute++] = static_cast<int16_t>(byte);
    }
    return bytes;
  }();
  return table;
}

// The bytes that `token` (UTF-8) stands for; nullopt when it uses a character outside the alphabet.
std::optional<std::string> BytesOfToken(std::string_view token) {
  std::string bytes;
  bytes.reserve(token.size());
  for (size_t i = 0; i < token.size(); ++i) {
    uint32_t character = static_cast<uint8_t>(token[i]);
    if (character >= 0x80) {
      // The alphabet ends at U+0143: two bytes of UTF-8 are all that can occur.
      if (character >= 0xE0) return std::nullopt;
      character = (character & 0x1F) << 6 | (static_cast<uint8_t>(token[++i]) & 0x3F);
    }
    if (character >= kNumByteCharacters || ByteOfCharacter()[character] < 0) return std::nullopt;
    bytes += static_cast<char>(ByteOfCharacter()[character]);
  }
  return bytes;
}

// --- tokenizer_config.json, special_tokens_map.json ---------------------------------------------------------------

struct DeclaredToken {
  std::string content;
  std::optional<int32_t> id;  // as added_tokens_decoder says
  bool is_special = true;
};

struct TokenizerConfig {
  std::optional<std::string> bos = "</s>";
  std::optional<std::string> eos = "</s>";
  std::optional<std::string> unk = "</s>";
  std::optional<std::string> pad = "<pad>";
  bool is_pad_declared = false;  // by a file; OPT's <pad> may be absent from other vocabularies
  bool add_bos = true;
  std::vector<DeclaredToken> others;  // other special tokens, and those of added_tokens_decoder
};

// A token is written as a string or as an object with its content and how it is matched.
absl::StatusOr<std::string> ReadDeclaredContent(const char* file, std::string_view key, const json& value) {
  const json* content = &value;
  if (value.is_object()) {
    for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
      if (value.contains(flag) && value[flag] != false) {
        return InvalidArgument("{}: {}.{} must be false, other ways of matching a token are not supported", file, key,
                               flag);
      }
    }
    if (!value.contains("content")) return InvalidArgument("{}: {} has no content", file, key);
    content = &value["content"];
  }
  if (!content->is_string()) return InvalidArgument("{}: {} must be a string or an object with content", file, key);
  if (content->get_ref<const std::string&>().empty()) return InvalidArgument("{}: {} is empty", file, key);
  return content->get<std::string>();
}

absl::Status ReadAddedTokensDecoder(const json& decoder, TokenizerConfig& config) {
  if (!decoder.is_object()) return InvalidArgument("{}: {} must be an object", kConfig, kAddedTokensDecoder);
  for (const auto& [id_text, value] : decoder.items()) {
    int32_t id = 0;
    const auto [end, error] = std::from_chars(id_text.data(), id_text.data() + id_text.size(), id);
    if (error != std::errc() || end != id_text.data() + id_text.size() || id < 0 || id >= kMaxTokens) {
      return InvalidArgument("{}: {} has the id {}, it must be an integer from 0 to {}", kConfig, kAddedTokensDecoder,
                             Quoted(id_text), kMaxTokens - 1);
    }
    DeclaredToken token{.content = {}, .id = id};
    OPTSERVE_ASSIGN_OR_RETURN(token.content, ReadDeclaredContent(kConfig, "added_tokens_decoder." + id_text, value));
    if (value.is_object() && value.contains("special")) token.is_special = value["special"] == true;
    config.others.push_back(std::move(token));
  }
  return absl::OkStatus();
}

absl::Status ReadSpecialTokens(const char* file, const json& object, TokenizerConfig& config) {
  for (const auto& [key, member] : {std::pair("bos_token", &TokenizerConfig::bos),
                                    {"eos_token", &TokenizerConfig::eos},
                                    {"unk_token", &TokenizerConfig::unk},
                                    {"pad_token", &TokenizerConfig::pad}}) {
    if (!object.contains(key)) continue;
    if (member == &TokenizerConfig::pad) config.is_pad_declared = true;
    config.*member = std::nullopt;
    if (object[key].is_null()) continue;
    OPTSERVE_ASSIGN_OR_RETURN(config.*member, ReadDeclaredContent(file, key, object[key]));
  }
  for (const char* key : {"cls_token", "sep_token", "mask_token"}) {
    if (!object.contains(key) || object[key].is_null()) continue;
    OPTSERVE_ASSIGN_OR_RETURN(std::string content, ReadDeclaredContent(file, key, object[key]));
    config.others.push_back({.content = std::move(content), .id = std::nullopt});
  }
  constexpr char kAdditional[] = "additional_special_tokens";
  if (!object.contains(kAdditional) || object[kAdditional].is_null()) return absl::OkStatus();
  if (!object[kAdditional].is_array()) return InvalidArgument("{}: {} must be a list", file, kAdditional);
  for (const json& value : object[kAdditional]) {
    OPTSERVE_ASSIGN_OR_RETURN(std::string content, ReadDeclaredContent(file, kAdditional, value));
    config.others.push_back({.content = std::move(content), .id = std::nullopt});
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> ReadFlag(const json& object, const char* key, bool if_absent) {
  if (!object.contains(key) || object[key].is_null()) return if_absent;
  if (!object[key].is_boolean()) return InvalidArgument("{}: {} must be true or false", kConfig, key);
  return object[key].get<bool>();
}

// nullopt when there is no such file.
absl::StatusOr<std::optional<json>> ReadJsonObject(const ModelDirectory& directory, const char* file) {
  if (!directory.Has(file)) return std::nullopt;
  OPTSERVE_ASSIGN_OR_RETURN(const std::string content, ReadFile(directory, file, kMaxConfigBytes));
  std::optional<json> object = json::parse(content, nullptr, /*allow_exceptions=*/false);
  if (object->is_discarded()) return InvalidArgument("{} is not JSON", file);
  if (!object->is_object()) return InvalidArgument("{} must hold a JSON object", file);
  return object;
}

absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const ModelDirectory& directory) {
  TokenizerConfig config;
  OPTSERVE_ASSIGN_OR_RETURN(const std::optional<json> object, ReadJsonObject(directory, kConfig));
  if (object.has_value()) {
    OPTSERVE_RETURN_IF_ERROR(ReadSpecialTokens(kConfig, *object, config));
    // Hugging Face's GPT2Tokenizer adds no BOS unless told to.
    OPTSERVE_ASSIGN_OR_RETURN(config.add_bos, ReadFlag(*object, "add_bos_token", /*if_absent=*/false));
    OPTSERVE_ASSIGN_OR_RETURN(const bool add_prefix_space, ReadFlag(*object, "add_prefix_space", false));
    if (add_prefix_space) return InvalidArgument("{}: add_prefix_space must be false, as it is for OPT", kConfig);
    if (object->contains(kAddedTokensDecoder)) {
      OPTSERVE_RETURN_IF_ERROR(ReadAddedTokensDecoder((*object)[kAddedTokensDecoder], config));
    }
  }
  OPTSERVE_ASSIGN_OR_RETURN(const std::optional<json> map, ReadJsonObject(directory, kSpecialTokensMap));
  if (map.has_value()) OPTSERVE_RETURN_IF_ERROR(ReadSpecialTokens(kSpecialTokensMap, *map, config));
  if (config.others.size() > kMaxDeclaredTokens) {
    return InvalidArgument("{} and {} declare {} tokens, the limit is {}", kConfig, kSpecialTokensMap,
                           config.others.size(), kMaxDeclaredTokens);
  }
  if (config.add_bos && !config.bos.has_value()) {
    return InvalidArgument("{}: add_bos_token is true, but bos_token is null", kConfig);
  }
  return config;
}

// --- vocab.json ---------------------------------------------------------------------------------------------------

// The vocabulary while it is read: tokens by id, and ids by token. Open addressing, because a node-based map of OPT's
// 50,265 strings costs more time than parsing the file.
class Vocabulary {
 public:
  Vocabulary() : slots_(1 << 12, kFree) {}

  std::optional<int32_t> Find(std::string_view token) const {
    const int32_t id = slots_[FindSlot(token)];
    return id == kFree ? std::nullopt : std::optional(id);
  }

  const std::vector<std::string>& tokens() const { return tokens_; }  // [id]; empty where an id has none

  bool HasTokenAt(int32_t id) const { return static_cast<size_t>(id) < tokens_.size() && !tokens_[id].empty(); }

  // Requires that neither the token nor the id is there, and that the token is not empty.
  void Insert(std::string token, int32_t id) {
    if (2 * ++num_tokens_ > slots_.size()) Grow();
    slots_[FindSlot(token)] = id;
    if (tokens_.size() <= static_cast<size_t>(id)) tokens_.resize(id + 1);
    tokens_[id] = std::move(token);
  }

  std::vector<std::string> TakeTokens() && { return std::move(tokens_); }

 private:
  static constexpr int32_t kFree = -1;

  size_t FindSlot(std::string_view token) const {
    const size_t mask = slots_.size() - 1;
    size_t slot = std::hash<std::string_view>()(token) & mask;
    while (slots_[slot] != kFree && tokens_[slots_[slot]] != token) slot = (slot + 1) & mask;
    return slot;
  }

  void Grow() {
    const std::vector<int32_t> old = std::exchange(slots_, std::vector<int32_t>(2 * slots_.size(), kFree));
    for (const int32_t id : old) {
      if (id != kFree) slots_[FindSlot(tokens_[id])] = id;
    }
  }

  std::vector<std::string> tokens_;  // [id]
  std::vector<int32_t> slots_;       // a power of two, at most half full
  size_t num_tokens_ = 0;
};

// Takes vocab.json straight from the parser, without a tree in between. Anything but one flat object of integers ends
// the parse with status() set.
class VocabularyHandler : public nlohmann::json_sax<json> {
 public:
  // `declared`: the tokens that may hold characters outside the byte alphabet.
  explicit VocabularyHandler(const std::unordered_set<std::string>& declared) : declared_(declared) {}

  const absl::Status& status() const { return status_; }
  Vocabulary TakeVocabulary() && { return std::move(vocabulary_); }

  bool start_object(size_t) override { return depth_++ == 0 || RefuseValue(); }
  bool end_object() override { return true; }
  bool key(string_t& token) override {
    token_ = std::move(token);
    return true;
  }
  bool number_unsigned(number_unsigned_t id) override {
    if (depth_ == 0) return RefuseValue();
    if (id >= kMaxTokens)
      return Refuse(
          InvalidArgument("{}: the id of {} is {}, the limit is {}", kVocab, Quoted(token_), id, kMaxTokens - 1));
    return Add(static_cast<int32_t>(id));
  }
  bool number_integer(number_integer_t id) override {
    return Refuse(InvalidArgument("{}: the id of {} is {}, it must not be negative", kVocab, Quoted(token_), id));
  }
  bool number_float(number_float_t, const string_t&) override { return RefuseValue(); }
  bool null() override { return RefuseValue(); }
  bool boolean(bool) override { return RefuseValue(); }
  bool string(string_t&) override { return RefuseValue(); }
  bool binary(binary_t&) override { return RefuseValue(); }
  bool start_array(size_t) override { return RefuseValue(); }
  bool end_array() override { return true; }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Refuse(InvalidArgument("{} is not JSON: error at byte {}", kVocab, position));
  }

 private:
  bool Refuse(absl::Status status) {
    status_ = std::move(status);
    return false;
  }
  bool RefuseValue() {
    if (depth_ == 0) return Refuse(InvalidArgument("{} must hold a JSON object", kVocab));
    return Refuse(InvalidArgument("{}: the id of {} must be an integer", kVocab, Quoted(token_)));
  }

  bool Add(int32_t id) {
    std::optional<std::string> bytes = BytesOfToken(token_);
    if (!bytes.has_value()) {
      if (!declared_.contains(token_)) {
        return Refuse(InvalidArgument("{}: the token {} is not in the byte alphabet", kVocab, Quoted(token_)));
      }
      bytes = token_;
    }
    if (bytes->empty()) return Refuse(InvalidArgument("{}: the token of id {} is empty", kVocab, id));
    if (vocabulary_.Find(*bytes))
      return Refuse(InvalidArgument("{}: the token {} is there twice", kVocab, Quoted(token_)));
    if (vocabulary_.HasTokenAt(id)) return Refuse(InvalidArgument("{}: the id {} is there twice", kVocab, id));
    vocabulary_.Insert(*std::move(bytes), id);
    return true;
  }

  const std::unordered_set<std::string>& declared_;
  Vocabulary vocabulary_;
  std::string token_;
  int depth_ = 0;
  absl::Status status_;
};

absl::StatusOr<Vocabulary> ReadVocabulary(const ModelDirectory& directory, const TokenizerConfig& config) {
  std::unordered_set<std::string> declared;
  for (const auto& content : {config.bos, config.eos, config.unk, config.pad}) {
    if (content.has_value()) declared.insert(*content);
  }
  for (const DeclaredToken& token : config.others) declared.insert(token.content);

  OPTSERVE_ASSIGN_OR_RETURN(const std::string content, ReadFile(directory, kVocab, kMaxFileBytes));
  VocabularyHandler handler(declared);
  json::sax_parse(content, &handler);
  OPTSERVE_RETURN_IF_ERROR(handler.status());
  Vocabulary vocabulary = std::move(handler).TakeVocabulary();
  for (int byte = 0; byte < 256; ++byte) {
    const char character = static_cast<char>(byte);
    if (!vocabulary.Find(std::string_view(&character, 1))) {
      return InvalidArgument("{} has no token for the byte 0x{:02x}: this is not a byte-level vocabulary", kVocab,
                             byte);
    }
  }
  return vocabulary;
}

// --- merges.txt ---------------------------------------------------------------------------------------------------

absl::StatusOr<TokenizerFiles::Merge> ParseMerge(const Vocabulary& vocabulary, std::string_view line, int line_number) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
    return InvalidArgument("{} line {}: must be two tokens with a space between them, is {}", kMerges, line_number,
                           Quoted(line));
  }
  const std::string_view left = line.substr(0, space);
  const std::string_view right = line.substr(space + 1);
  const auto find = [&](const std::string& token) -> absl::StatusOr<int32_t> {
    const std::optional<std::string> bytes = BytesOfToken(token);
    const std::optional<int32_t> id = bytes.has_value() ? vocabulary.Find(*bytes) : std::nullopt;
    if (!id.has_value()) {
      return InvalidArgument("{} line {}: the token {} is not in {}", kMerges, line_number, Quoted(token), kVocab);
    }
    return *id;
  };
  TokenizerFiles::Merge merge;
  OPTSERVE_ASSIGN_OR_RETURN(merge.left, find(std::string(left)));
  OPTSERVE_ASSIGN_OR_RETURN(merge.right, find(std::string(right)));
  OPTSERVE_ASSIGN_OR_RETURN(merge.result, find(std::string(left).append(right)));
  return merge;
}

// A file that ends too early reads like a whole one, and would cut texts into other tokens than the model has learned.
// But every token of the vocabulary that could be merged from two others has a line that does it, unless it is special.
absl::Status CheckAllMade(const TokenizerConfig& config, const Vocabulary& vocabulary,
                          const std::vector<TokenizerFiles::Merge>& merges, int num_lines) {
  const std::vector<std::string>& tokens = vocabulary.tokens();
  std::vector<bool> is_made(tokens.size());
  for (const TokenizerFiles::Merge& merge : merges) is_made[merge.result] = true;
  for (const auto& content : {config.bos, config.eos, config.unk, config.pad}) {
    if (const auto id = content ? vocabulary.Find(*content) : std::nullopt) is_made[*id] = true;
  }
  for (const DeclaredToken& token : config.others) {
    if (const auto id = vocabulary.Find(token.content)) is_made[*id] = true;
  }
  for (size_t id = 0; id < tokens.size(); ++id) {
    const std::string_view token = tokens[id];
    // <s> and <unk> are often in a vocabulary without being declared.
    if (is_made[id] || (token.starts_with('<') && token.ends_with('>'))) continue;
    for (size_t cut = 1; cut < token.size(); ++cut) {
      if (!vocabulary.Find(token.substr(0, cut)) || !vocabulary.Find(token.substr(cut))) continue;
      return InvalidArgument("{} is cut off: none of its {} lines makes {}, which is in {}; fetch it again", kMerges,
                             num_lines, Quoted(token), kVocab);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenizerFiles::Merge>> ReadMerges(const ModelDirectory& directory,
                                                              const TokenizerConfig& config,
                                                              const Vocabulary& vocabulary) {
  OPTSERVE_ASSIGN_OR_RETURN(const std::string content, ReadFile(directory, kMerges, kMaxFileBytes));
  std::vector<TokenizerFiles::Merge> merges;
  std::string_view rest = content;
  int line_number = 1;
  for (; !rest.empty(); ++line_number) {
    const size_t end = rest.find('\n');
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line_number == 1 && line.starts_with("#version")) continue;
    if (line.empty() && rest.empty()) break;
    const absl::StatusOr<TokenizerFiles::Merge> merge = ParseMerge(vocabulary, line, line_number);
    if (!merge.ok() && end == std::string_view::npos) {
      return InvalidArgument("{}; the file ends within this line, so it is cut off: fetch it again",
                             std::string(merge.status().message()));
    }
    OPTSERVE_RETURN_IF_ERROR(merge.status());
    merges.push_back(*merge);
  }
  OPTSERVE_RETURN_IF_ERROR(CheckAllMade(config, vocabulary, merges, line_number - 1));
  return merges;
}

// --- The special tokens' ids --------------------------------------------------------------------------------------

void AddOnce(std::vector<TokenizerFiles::AddedToken>& added, TokenizerFiles::AddedToken token) {
  for (const TokenizerFiles::AddedToken& known : added) {
    if (known.id == token.id) return;
  }
  added.push_back(token);
}

// Gives every token of added_tokens_decoder its place in the vocabulary.
absl::Status PlaceAddedTokens(const TokenizerConfig& config, Vocabulary& vocabulary) {
  for (const DeclaredToken& token : config.others) {
    if (!token.id.has_value()) continue;
    const std::optional<int32_t> known = vocabulary.Find(token.content);
    if (known == token.id) continue;
    if (known.has_value()) {
      return InvalidArgument("{}: {} has id {}, but {} in {}", kConfig, Quoted(token.content), *token.id, *known,
                             kVocab);
    }
    if (vocabulary.HasTokenAt(*token.id)) {
      return InvalidArgument("{}: {} has id {}, which another token has in {}", kConfig, Quoted(token.content),
                             *token.id, kVocab);
    }
    vocabulary.Insert(token.content, *token.id);
  }
  return absl::OkStatus();
}

absl::Status ResolveSpecialTokens(const TokenizerConfig& config, const Vocabulary& vocabulary, TokenizerFiles& files) {
  const auto resolve = [&](std::string_view what, const std::optional<std::string>& content,
                           std::optional<int32_t>& id) -> absl::Status {
    if (!content.has_value()) return absl::OkStatus();
    id = vocabulary.Find(*content);
    if (!id.has_value()) return InvalidArgument("{} has no id for the {} {}", kVocab, what, Quoted(*content));
    AddOnce(files.added, {.id = *id});
    return absl::OkStatus();
  };
  OPTSERVE_RETURN_IF_ERROR(resolve("bos_token", config.bos, files.bos_id));
  OPTSERVE_RETURN_IF_ERROR(resolve("eos_token", config.eos, files.eos_id));
  OPTSERVE_RETURN_IF_ERROR(resolve("unk_token", config.unk, files.unk_id));
  if (config.is_pad_declared || (config.pad.has_value() && vocabulary.Find(*config.pad))) {
    OPTSERVE_RETURN_IF_ERROR(resolve("pad_token", config.pad, files.pad_id));
  }
  for (const DeclaredToken& token : config.others) {
    const std::optional<int32_t> id = vocabulary.Find(token.content);
    if (!id.has_value()) return InvalidArgument("{} has no id for the token {}", kVocab, Quoted(token.content));
    AddOnce(files.added, {.id = *id, .is_special = token.is_special});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::filesystem::path& path) {
  OPTSERVE_ASSIGN_OR_RETURN(const ModelDirectory directory, ModelDirectory::Open(path.string()));
  const bool has_vocab = directory.Has(kVocab), has_merges = directory.Has(kMerges);
  if (!has_vocab && !has_merges) return NotFound("the model has no tokenizer: {} and {} are missing", kVocab, kMerges);
  if (!has_vocab || !has_merges) {
    return InvalidArgument("{} is there, but {} is missing: a tokenizer needs both", has_vocab ? kVocab : kMerges,
                           has_vocab ? kMerges : kVocab);
  }
  TokenizerFiles files;
  OPTSERVE_ASSIGN_OR_RETURN(const TokenizerConfig config, ReadTokenizerConfig(directory));
  OPTSERVE_ASSIGN_OR_RETURN(Vocabulary vocabulary, ReadVocabulary(directory, config));
  OPTSERVE_RETURN_IF_ERROR(PlaceAddedTokens(config, vocabulary));
  OPTSERVE_ASSIGN_OR_RETURN(files.merges, ReadMerges(directory, config, vocabulary));
  OPTSERVE_RETURN_IF_ERROR(ResolveSpecialTokens(config, vocabulary, files));
  files.tokens = std::move(vocabulary).TakeTokens();
  files.add_bos = config.add_bos;
  return files;
}

}  // namespace optserve
