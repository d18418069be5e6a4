#include "server/text/utf8.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>

#include "tests/server/text/random_text.h"

namespace optserve {
namespace {

// Every proper beginning of every character, by enumeration, and how long the character becomes.
const std::map<std::string, size_t>& Beginnings() {
  static const auto beginnings = [] {
    std::map<std::string, size_t> all;
    for (uint32_t c = 0x80; c < 0x110000; ++c) {
      if (c >= 0xD800 && c < 0xE000) continue;
      const std::string character = EncodeUtf8(c);
      for (size_t n = 1; n < character.size(); ++n) all[character.substr(0, n)] = character.size();
    }
    return all;
  }();
  return beginnings;
}

bool IsCharacter(const std::string& bytes) {
  if (bytes.size() == 1) return static_cast<uint8_t>(bytes[0]) < 0x80;
  const auto beginning = Beginnings().find(bytes.substr(0, bytes.size() - 1));
  return beginning != Beginnings().end() && beginning->second == bytes.size() &&
         (static_cast<uint8_t>(bytes.back()) & 0xC0) == 0x80;
}

// Adds byte after byte to what may become a character. One U+FFFD for the longest beginning that came to nothing.
std::string NaiveReplace(const std::string& bytes) {
  std::string text;
  std::string pending;
  for (const char byte : bytes) {
    if (!pending.empty() && !IsCharacter(pending + byte) && !Beginnings().contains(pending + byte)) {
      text += kReplacementCharacter;
      pending.clear();
    }
    pending += byte;
    if (IsCharacter(pending)) {
      text += pending;
      pending.clear();
    } else if (!Beginnings().contains(pending)) {
      text += kReplacementCharacter;
      pending.clear();
    }
  }
  if (!pending.empty()) text += kReplacementCharacter;
  return text;
}

TEST(Utf8Test, EveryCodePointIsOneCharacter) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    const std::string bytes = EncodeUtf8(c);
    const bool is_surrogate = c >= 0xD800 && c < 0xE000;
    ASSERT_EQ(FindInvalidUtf8(bytes).has_value(), is_surrogate) << c;
    ASSERT_EQ(CountCodePoints(bytes), 1u) << c;
  }
}

TEST(Utf8Test, FindsTheFirstBadByte) {
  EXPECT_EQ(FindInvalidUtf8(""), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8("plain ASCII, longer than eight bytes"), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8("plain ASCII\xFF"), 11u);
  EXPECT_EQ(FindInvalidUtf8("eight888\xC0\x80"), 8u);
  EXPECT_EQ(FindInvalidUtf8("cut \xE2\x82"), 4u);
}

TEST(Utf8StreamTest, WaitsForTheRestOfACharacter) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Push("a\xF0\x9F"), "a");
  EXPECT_EQ(stream.Push("\x98"), "");
  EXPECT_EQ(stream.Push("\x80z"), "\U0001F600z");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(Utf8PrefixTest, DoesNotEndInsideACharacter) {
  EXPECT_EQ(Utf8Prefix("abc", 3), "abc");
  EXPECT_EQ(Utf8Prefix("abcd", 3), "abc");
  const std::string text = "a\u00E9\u20AC\U0001F600";  // 1, 2, 3 and 4 bytes
  const size_t lengths[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 10};
  for (size_t max_bytes = 0; max_bytes < std::size(lengths); ++max_bytes) {
    EXPECT_EQ(Utf8Prefix(text, max_bytes), text.substr(0, lengths[max_bytes])) << max_bytes;
  }
}

TEST(Utf8StreamTest, ReplacesWhatCannotBecomeACharacterAtOnce) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Push("\xED\xA0"), "\uFFFD\uFFFD");  // a surrogate: each byte by itself
  EXPECT_EQ(stream.Push("\xE2\x82"), "");
  EXPECT_EQ(stream.Push("a"), "\uFFFDa");
  EXPECT_EQ(stream.Push("\xF0"), "");
  EXPECT_EQ(stream.Flush(), "\uFFFD");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(Utf8StreamTest, AgreesWithTheDefinitionHoweverTheBytesAreCut) {
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    const std::string bytes = RandomBytes(random, 24);
    Utf8Stream stream;
    std::string text;
    for (size_t pos = 0; pos < bytes.size();) {
      const size_t num_bytes = 1 + random() % 5;
      const std::string piece = stream.Push(std::string_view(bytes).substr(pos, num_bytes));
      ASSERT_EQ(FindInvalidUtf8(piece), std::nullopt);
      text += piece;
      pos += num_bytes;
    }
    text += stream.Flush();
    ASSERT_EQ(text, NaiveReplace(bytes)) << testing::PrintToString(bytes);
  }
}

}  // namespace
}  // namespace optserve
