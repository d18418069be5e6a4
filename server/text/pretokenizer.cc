#include "server/text/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cstdint>
#include <limits>
#include <string>

#include "engine/util/status.h"

namespace optserve {
namespace {

// White_Space of Unicode, spelled out: PCRE2's own \s also takes U+180E, which neither Unicode nor Hugging Face does.
#define OPTSERVE_WHITE_SPACE R"(\x09-\x0d\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"

// The possessive ++ changes no match (what follows it in its alternative is nothing), but it saves PCRE2 the memory and
// the time of backtracking into a megabyte of letters.
constexpr std::string_view kPattern =
    R"('(?:s|t|re|ve|m|ll|d)| ?\p{L}++| ?\p{N}++| ?[^)" OPTSERVE_WHITE_SPACE R"(\p{L}\p{N}]++|)"
    R"([)" OPTSERVE_WHITE_SPACE R"(]+(?![^)" OPTSERVE_WHITE_SPACE R"(])|[)" OPTSERVE_WHITE_SPACE R"(]++)";

#undef OPTSERVE_WHITE_SPACE

std::string PcreMessage(int error) {
  std::array<PCRE2_UCHAR, 256> message{};
  pcre2_get_error_message(error, message.data(), message.size());
  return reinterpret_cast<const char*>(message.data());
}

struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct MatchContextDeleter {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

}  // namespace

void Pretokenizer::CodeDeleter::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

absl::StatusOr<Pretokenizer> Pretokenizer::Create() {
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern.data()), kPattern.size(),
                          PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED, &error, &error_offset, nullptr));
  if (code == nullptr) {
    return Internal("PCRE2 refuses the pre-tokenizer's pattern at {}: {}", error_offset, PcreMessage(error));
  }
  // Where memory may not be made executable this fails, and pcre2_match interprets the pattern instead: same words.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return Pretokenizer(std::move(code));
}

absl::Status Pretokenizer::Split(std::string_view text, std::vector<std::string_view>& words) const {
  const std::unique_ptr<pcre2_match_context, MatchContextDeleter> context(pcre2_match_context_create(nullptr));
  const std::unique_ptr<pcre2_match_data, MatchDataDeleter> match(
      pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  if (context == nullptr || match == nullptr) return ResourceExhausted("out of memory while tokenizing");
  // The limits guard against patterns that backtrack exponentially. Ours is linear, and a long word is no mistake.
  pcre2_set_match_limit(context.get(), std::numeric_limits<uint32_t>::max());
  pcre2_set_heap_limit(context.get(), std::numeric_limits<uint32_t>::max());

  const PCRE2_SIZE* span = pcre2_get_ovector_pointer(match.get());
  size_t pos = 0;
  while (pos < text.size()) {
    const int rc = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), pos,
                               PCRE2_NO_UTF_CHECK, match.get(), context.get());
    // Every character is a space, a letter, a number or something else, so there always is a word.
    if (rc < 0 || span[1] <= pos) return Internal("PCRE2 found no word at byte {}: {}", pos, PcreMessage(rc));
    words.push_back(text.substr(pos, span[1] - pos));
    pos = span[1];
  }
  return absl::OkStatus();
}

}  // namespace optserve
