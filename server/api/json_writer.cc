#include "server/api/json_writer.h"

#include <charconv>
#include <cmath>
#include <iterator>

#include "server/text/utf8.h"

namespace optserve {
namespace {

bool IsPlain(char byte) {
  const auto value = static_cast<uint8_t>(byte);
  return value >= 0x20 && value < 0x80 && byte != '"' && byte != '\\';
}

void AppendEscaped(std::string& json, char byte) {
  constexpr char kHex[] = "0123456789abcdef";
  switch (byte) {
    case '"':
      json += "\\\"";
      return;
    case '\\':
      json += "\\\\";
      return;
    case '\n':
      json += "\\n";
      return;
    case '\r':
      json += "\\r";
      return;
    case '\t':
      json += "\\t";
      return;
    default:
      json += "\\u00";
      json += kHex[static_cast<uint8_t>(byte) >> 4];
      json += kHex[static_cast<uint8_t>(byte) & 0xF];
  }
}

}  // namespace

void AppendJsonString(std::string& json, std::string_view text) {
  json += '"';
  while (!text.empty()) {
    size_t num_plain = 0;
    while (num_plain < text.size() && IsPlain(text[num_plain])) ++num_plain;
    json += text.substr(0, num_plain);
    text.remove_prefix(num_plain);
    if (text.empty()) break;
    if (static_cast<uint8_t>(text[0]) < 0x80) {
      AppendEscaped(json, text[0]);
      text.remove_prefix(1);
      continue;
    }
    const Utf8Unit unit = NextUtf8Unit(text);
    json += unit.kind == Utf8Unit::Kind::kCharacter ? text.substr(0, unit.num_bytes) : kReplacementCharacter;
    text.remove_prefix(unit.num_bytes);
  }
  json += '"';
}

void AppendJsonStringOrNull(std::string& json, std::string_view text) {
  if (text.empty()) {
    json += "null";
  } else {
    AppendJsonString(json, text);
  }
}

void AppendJsonLogprob(std::string& json, float logprob) {
  constexpr float kLowest = -9999.0f;
  if (!(logprob >= kLowest)) logprob = kLowest;  // NaN, too
  char digits[32];
  const auto result = std::to_chars(std::begin(digits), std::end(digits), logprob);
  const std::string_view text(digits, static_cast<size_t>(result.ptr - digits));
  json += text;
  if (text.find_first_of(".e") == std::string_view::npos) json += ".0";
}

void AppendJsonInt(std::string& json, int64_t value) {
  char digits[24];
  const auto result = std::to_chars(std::begin(digits), std::end(digits), value);
  json.append(digits, result.ptr);
}

}  // namespace optserve
