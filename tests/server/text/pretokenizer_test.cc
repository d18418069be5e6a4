#include "server/text/pretokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tests/server/text/random_text.h"

namespace optserve {
namespace {

using testing::ElementsAre;

std::vector<std::string_view> Split(std::string_view text) {
  static const Pretokenizer pretokenizer = Pretokenizer::Create().value();
  std::vector<std::string_view> words;
  EXPECT_TRUE(pretokenizer.Split(text, words).ok());
  return words;
}

TEST(PretokenizerTest, CutsAsGpt2Does) {
  EXPECT_THAT(Split(""), ElementsAre());
  EXPECT_THAT(Split("Hello world"), ElementsAre("Hello", " world"));
  EXPECT_THAT(Split("it's we'll I'D"), ElementsAre("it", "'s", " we", "'ll", " I", "'", "D"));
  EXPECT_THAT(Split("abc123 45...x"), ElementsAre("abc", "123", " 45", "...", "x"));
  EXPECT_THAT(Split("'sure"), ElementsAre("'s", "ure"));
}

TEST(PretokenizerTest, TheLastOfSeveralSpacesBelongsToTheNextWord) {
  EXPECT_THAT(Split("a   b"), ElementsAre("a", "  ", " b"));
  EXPECT_THAT(Split("a \n b"), ElementsAre("a", " \n", " b"));
  EXPECT_THAT(Split("a\n\nb"), ElementsAre("a", "\n", "\n", "b"));
  EXPECT_THAT(Split("a  "), ElementsAre("a", "  "));
}

TEST(PretokenizerTest, SpaceIsUnicodesWhiteSpace) {
  for (const char* space :
       {"\t", "\u0085", "\u00A0", "\u1680", "\u2000", "\u200A", "\u2028", "\u202F", "\u205F", "\u3000"}) {
    EXPECT_EQ(Split(std::string("!") + space + "!").size(), 3u) << space;
  }
  for (const char* other : {"\x1C", "\x1F", "\u180E", "\u200B", "\uFEFF"}) {
    EXPECT_EQ(Split(std::string("!") + other + "!").size(), 1u) << other;
  }
}

TEST(PretokenizerTest, WordsCoverTheTextInOrder) {
  std::mt19937 random(2);
  for (int round = 0; round < 5000; ++round) {
    const std::string text = RandomText(random, 40);
    const char* end = text.data();
    for (const std::string_view word : Split(text)) {
      ASSERT_EQ(word.data(), end);
      ASSERT_FALSE(word.empty());
      end += word.size();
    }
    ASSERT_EQ(end, text.data() + text.size());
  }
}

TEST(PretokenizerTest, AWordMayBeMegabytesLong) {
  const size_t kLength = 4 << 20;
  EXPECT_EQ(Split(std::string(kLength, 'a')).size(), 1u);
  EXPECT_EQ(Split(std::string(kLength, '7')).size(), 1u);
  EXPECT_EQ(Split(std::string(kLength, '!')).size(), 1u);
  EXPECT_EQ(Split(std::string(kLength, ' ')).size(), 1u);
  EXPECT_EQ(Split(std::string(kLength, ' ') + "x").size(), 2u);
}

}  // namespace
}  // namespace optserve
