#include "server/text/utf8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace optserve {
namespace {

// A row of table 3-7: how long the character is, and which second bytes are allowed. Later bytes are always 80..BF.
struct LeadByte {
  size_t num_bytes = 0;  // 0: no character starts with this byte
  uint8_t second_min = 0x80;
  uint8_t second_max = 0xBF;
};

LeadByte ClassifyLeadByte(uint8_t lead) {
  if (lead < 0x80) return {.num_bytes = 1};
  if (lead < 0xC2) return {};
  if (lead < 0xE0) return {.num_bytes = 2};
  if (lead == 0xE0) return {.num_bytes = 3, .second_min = 0xA0};  // shorter forms exist
  if (lead == 0xED) return {.num_bytes = 3, .second_max = 0x9F};  // surrogates
  if (lead < 0xF0) return {.num_bytes = 3};
  if (lead == 0xF0) return {.num_bytes = 4, .second_min = 0x90};
  if (lead < 0xF4) return {.num_bytes = 4};
  if (lead == 0xF4) return {.num_bytes = 4, .second_max = 0x8F};  // beyond U+10FFFF
  return {};
}

bool IsEightAsciiBytes(const char* bytes) {
  uint64_t word = 0;
  std::memcpy(&word, bytes, sizeof(word));
  return (word & 0x8080808080808080u) == 0;
}

}  // namespace

Utf8Unit NextUtf8Unit(std::string_view text) {
  const LeadByte lead = ClassifyLeadByte(static_cast<uint8_t>(text[0]));
  if (lead.num_bytes == 0) return {Utf8Unit::Kind::kInvalid, 1};
  for (size_t i = 1; i < lead.num_bytes; ++i) {
    if (i == text.size()) return {Utf8Unit::Kind::kIncomplete, i};
    const auto byte = static_cast<uint8_t>(text[i]);
    const uint8_t min = i == 1 ? lead.second_min : 0x80;
    const uint8_t max = i == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) return {Utf8Unit::Kind::kInvalid, i};
  }
  return {Utf8Unit::Kind::kCharacter, lead.num_bytes};
}

std::optional<size_t> FindInvalidUtf8(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    if (text.size() - pos >= 8 && IsEightAsciiBytes(text.data() + pos)) {
      pos += 8;
      continue;
    }
    const Utf8Unit unit = NextUtf8Unit(text.substr(pos));
    if (unit.kind != Utf8Unit::Kind::kCharacter) return pos;
    pos += unit.num_bytes;
  }
  return std::nullopt;
}

std::string_view Utf8Prefix(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // a byte inside a character
  return text.substr(0, end);
}

size_t CountCodePoints(std::string_view text) {
  return std::ranges::count_if(text, [](char byte) { return (static_cast<uint8_t>(byte) & 0xC0) != 0x80; });
}

std::string Utf8Stream::Push(std::string_view bytes) {
  std::string joined;
  if (!pending_.empty()) {
    joined = pending_;
    joined += bytes;
    bytes = joined;
    pending_.clear();
  }
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const Utf8Unit unit = NextUtf8Unit(bytes);
    if (unit.kind == Utf8Unit::Kind::kIncomplete) {
      pending_ = bytes;
      break;
    }
    text += unit.kind == Utf8Unit::Kind::kCharacter ? bytes.substr(0, unit.num_bytes) : kReplacementCharacter;
    bytes.remove_prefix(unit.num_bytes);
  }
  return text;
}

std::string Utf8Stream::Flush() {
  if (pending_.empty()) return {};
  pending_.clear();
  return std::string(kReplacementCharacter);
}

}  // namespace optserve
