#include "server/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <thread>

#include "server/text/utf8.h"
#include "tests/server/text/random_text.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const Tokenizer& OptTokenizer() {
  static const Tokenizer tokenizer = Tokenizer::Load(TestDataPath("opt-tokenizer")).value();
  return tokenizer;
}

TEST(TokenizerTest, KnowsOptsSpecialTokens) {
  EXPECT_EQ(OptTokenizer().size(), 50265);
  EXPECT_EQ(OptTokenizer().bos_id(), 2);
  EXPECT_EQ(OptTokenizer().eos_id(), 2);
  EXPECT_EQ(OptTokenizer().unk_id(), 2);
  EXPECT_EQ(OptTokenizer().pad_id(), 1);
  EXPECT_TRUE(OptTokenizer().IsSpecial(2));
  EXPECT_FALSE(OptTokenizer().IsSpecial(0));
  EXPECT_FALSE(OptTokenizer().IsSpecial(-1));
  EXPECT_FALSE(OptTokenizer().IsSpecial(50265));
}

TEST(TokenizerTest, AnAddedBosHasNoWidthButOneInTheTextHas) {
  const Encoding encoding = OptTokenizer().EncodeWithOffsets("</s>A").value();
  EXPECT_THAT(encoding.ids, ElementsAre(2, 2, 250));
  EXPECT_THAT(encoding.offsets, ElementsAre(TextSpan{0, 0}, TextSpan{0, 4}, TextSpan{4, 5}));
  EXPECT_THAT(OptTokenizer().Encode("").value(), ElementsAre(2));
}

TEST(TokenizerTest, RefusesTextThatIsNotUtf8) {
  const absl::Status status = OptTokenizer().Encode("ok \xFF").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("offset 3"));
}

TEST(TokenizerTest, IdsWithoutATokenShowNothing) {
  EXPECT_EQ(OptTokenizer().TokenBytes(50265), "");
  EXPECT_EQ(OptTokenizer().TokenBytes(-1), "");
  EXPECT_EQ(OptTokenizer().Decode(std::vector<int32_t>{250, 50271, -5, 250}, true), "AA");
}

TEST(TokenizerTest, EveryIdShowsADifferentTokenText) {
  EXPECT_EQ(OptTokenizer().TokenText(5), " the");
  EXPECT_EQ(OptTokenizer().TokenText(2), "</s>");
  EXPECT_EQ(OptTokenizer().TokenText(17), "bytes:\\xe2\\x80");
  EXPECT_EQ(OptTokenizer().TokenText(50270), "token_id:50270");
  std::map<std::string, int32_t> ids;
  for (int32_t id = 0; id < OptTokenizer().size() + 7; ++id) {
    const std::string text = OptTokenizer().TokenText(id);
    EXPECT_EQ(FindInvalidUtf8(text), std::nullopt);
    EXPECT_TRUE(ids.emplace(text, id).second) << id << " and " << ids[text] << " both show " << text;
  }
}

TEST(TokenizerTest, AnyTextComesBackFromItsIds) {
  std::mt19937 random(5);
  for (int round = 0; round < 5000; ++round) {
    const std::string text = RandomText(random, 60);
    const bool parse = random() % 2 == 0;
    const Encoding encoding =
        OptTokenizer().EncodeWithOffsets(text, {.add_special_tokens = false, .parse_special_tokens = parse}).value();
    ASSERT_EQ(OptTokenizer().Decode(encoding.ids, /*skip_special=*/false), text);
    ASSERT_EQ(encoding.offsets.size(), encoding.ids.size());
    if (!encoding.ids.empty()) {
      ASSERT_EQ(encoding.offsets.back().end, static_cast<int32_t>(CountCodePoints(text)));
    }
  }
}

// A quadratic merge would need hours for the first of these.
TEST(TokenizerTest, AMegabyteOfAnythingIsNoWork) {
  constexpr size_t kLength = 1 << 20;
  std::string emoji;
  while (emoji.size() < kLength) emoji += "\U0001F600";
  std::string specials;
  while (specials.size() < kLength) specials += "</s";
  for (const std::string& text :
       {std::string(kLength, 'a'), std::string(kLength, ' '), std::string(kLength, '\n') + "x",
        std::string(kLength, '!'), std::string(kLength, '1'), emoji, specials}) {
    const std::vector<int32_t> ids = OptTokenizer().Encode(text, {.add_special_tokens = false}).value();
    EXPECT_EQ(OptTokenizer().Decode(ids, /*skip_special=*/false), text);
  }
}

TEST(TokenizerTest, ManyThreadsGetTheSameIds) {
  const std::string text = "Call me Ishmael. Some years ago\u2014never mind how long precisely";
  const std::vector<int32_t> expected = OptTokenizer().Encode(text).value();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) EXPECT_EQ(OptTokenizer().Encode(text).value(), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace optserve
