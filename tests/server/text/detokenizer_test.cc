#include "server/text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "server/text/tokenizer.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

TEST(DetokenizerTest, PiecesConcatenateToDecodeForAnyIds) {
  const Tokenizer tokenizer = Tokenizer::Load(TestDataPath("opt-tokenizer")).value();
  std::mt19937 random(4);
  for (int round = 0; round < 5000; ++round) {
    const bool skip_special = random() % 2 == 0;
    std::vector<int32_t> ids(random() % 20);
    for (int32_t& id : ids) {
      // Mostly tokens that hold a part of a character, specials, and ids outside the vocabulary.
      id = static_cast<int32_t>(random() % 3 == 0 ? random() % 4 : random() % (tokenizer.size() + 8));
    }
    Detokenizer detokenizer(tokenizer, skip_special);
    std::string text;
    for (const int32_t id : ids) {
      const std::string piece = detokenizer.Append(id);
      ASSERT_EQ(FindInvalidUtf8(piece), std::nullopt);
      text += piece;
    }
    text += detokenizer.Flush();
    ASSERT_EQ(text, tokenizer.Decode(ids, skip_special));
  }
}

}  // namespace
}  // namespace optserve
