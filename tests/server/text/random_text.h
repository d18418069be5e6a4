#pragma once

#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>

namespace optserve {

// `code_point` as UTF-8.
inline std::string EncodeUtf8(uint32_t code_point) {
  const auto tail = [code_point](int shift) { return static_cast<char>(0x80 | ((code_point >> shift) & 0x3F)); };
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  if (code_point < 0x800) return {static_cast<char>(0xC0 | code_point >> 6), tail(0)};
  if (code_point < 0x10000) return {static_cast<char>(0xE0 | code_point >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | code_point >> 18), tail(12), tail(6), tail(0)};
}

// Up to `max_characters` characters, from ASCII, spaces, contractions, special tokens and all of Unicode.
inline std::string RandomText(std::mt19937& random, int max_characters) {
  constexpr std::array<std::string_view, 12> kPieces = {" ",     "  ",  "\n", "'s",    "'ll",    "</s>",
                                                        "<pad>", "the", "é",  " \t\n", "\u3000", "\U0001F600"};
  std::string text;
  const int num_characters = static_cast<int>(random() % (max_characters + 1));
  for (int i = 0; i < num_characters; ++i) {
    switch (random() % 4) {
      case 0:
        text += static_cast<char>(' ' + random() % 95);
        break;
      case 1:
        text += kPieces[random() % kPieces.size()];
        break;
      case 2:
        text += EncodeUtf8(random() % 0x3000);
        break;
      default: {
        const uint32_t code_point = random() % 0x110000;
        text += EncodeUtf8(code_point >= 0xD800 && code_point < 0xE000 ? 'x' : code_point);
      }
    }
  }
  return text;
}

// Bytes that are often almost UTF-8: the leads and tails at the edges of what is well formed.
inline std::string RandomBytes(std::mt19937& random, int max_bytes) {
  using std::string_view_literals::operator""sv;
  constexpr std::string_view kEdges =
      "\x00\x7F\x80\x8F\x90\x9F\xA0\xBF\xC0\xC1\xC2\xDF\xE0\xE1\xEC\xED\xEE\xEF\xF0\xF1\xF3\xF4\xF5\xFF"sv;
  std::string bytes;
  const int num_bytes = static_cast<int>(random() % (max_bytes + 1));
  for (int i = 0; i < num_bytes; ++i) {
    bytes += random() % 4 == 0 ? static_cast<char>(random()) : kEdges[random() % kEdges.size()];
  }
  return bytes;
}

}  // namespace optserve
