// OPT's vocabulary against Hugging Face, vector by vector: see tests/data/README.md.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "server/text/detokenizer.h"
#include "server/text/tokenizer.h"
#include "tests/support/test_data.h"

namespace optserve {
namespace {

using nlohmann::json;

std::vector<json> ReadLines(const char* file) {
  std::istringstream lines(ReadTestData(TestDataPath(file)));
  std::vector<json> values;
  for (std::string line; std::getline(lines, line);) values.push_back(json::parse(line));
  return values;
}

const Tokenizer& OptTokenizer() {
  static const Tokenizer tokenizer = Tokenizer::Load(TestDataPath("opt-tokenizer")).value();
  return tokenizer;
}

void ExpectEncoding(const json& vector, const EncodeOptions& options, const char* ids_key, const char* offsets_key) {
  const std::string text = vector["text"];
  const Encoding encoding = OptTokenizer().EncodeWithOffsets(text, options).value();
  json offsets = json::array();
  for (const TextSpan& span : encoding.offsets) offsets.push_back({span.begin, span.end});
  EXPECT_EQ(json(encoding.ids), vector[ids_key]) << vector["text"];
  EXPECT_EQ(offsets, vector[offsets_key]) << vector["text"];
  EXPECT_EQ(OptTokenizer().Decode(encoding.ids, /*skip_special=*/false), text);
}

TEST(TokenizerVectorsTest, IdsAndOffsets) {
  const std::vector<json> vectors = ReadLines("golden/tokenizer/tokenizer_vectors.jsonl");
  ASSERT_EQ(vectors.size(), 1477u);
  for (const json& vector : vectors) {
    ExpectEncoding(vector, {.add_special_tokens = false}, "ids", "offsets");
    const auto with_bos = OptTokenizer().Encode(vector["text"].get<std::string>());
    EXPECT_EQ(json(with_bos.value()), vector["ids_with_bos"]);
    EXPECT_EQ(OptTokenizer().Decode(vector["ids"].get<std::vector<int32_t>>(), false), vector["decoded"]);
  }
}

TEST(TokenizerVectorsTest, WithoutParsingSpecialTokensAreOrdinaryText) {
  int num_with_specials = 0;
  for (const json& vector : ReadLines("golden/tokenizer/tokenizer_vectors.jsonl")) {
    const bool has_specials = vector.contains("ids_literal");
    num_with_specials += has_specials;
    ExpectEncoding(vector, {.add_special_tokens = false, .parse_special_tokens = false},
                   has_specials ? "ids_literal" : "ids", has_specials ? "offsets_literal" : "offsets");
  }
  EXPECT_EQ(num_with_specials, 41);
}

TEST(TokenizerVectorsTest, DecodeStreamedAndWhole) {
  const std::vector<json> vectors = ReadLines("golden/tokenizer/decode_vectors.jsonl");
  ASSERT_EQ(vectors.size(), 536u);
  for (const json& vector : vectors) {
    const auto ids = vector["ids"].get<std::vector<int32_t>>();
    Detokenizer detokenizer(OptTokenizer(), /*skip_special=*/false);
    json deltas = json::array();
    for (const int32_t id : ids) deltas.push_back(detokenizer.Append(id));
    EXPECT_EQ(deltas, vector["deltas"]) << vector["ids"];
    EXPECT_EQ(detokenizer.Flush(), vector["flush"]) << vector["ids"];
    EXPECT_EQ(OptTokenizer().Decode(ids, /*skip_special=*/false), vector["text"]) << vector["ids"];
    EXPECT_EQ(OptTokenizer().Decode(ids, /*skip_special=*/true), vector["text_without_special"]) << vector["ids"];
  }
}

// Where the two Hugging Face tokenizers differ (letters younger than the tables of one of them) either answer is right.
TEST(TokenizerVectorsTest, YoungLettersBeforeContractionsGetOneOfTwoAnswers) {
  for (const json& vector : ReadLines("golden/tokenizer/tokenizer_disagreements.jsonl")) {
    const json ids = OptTokenizer().Encode(vector["text"].get<std::string>(), {.add_special_tokens = false}).value();
    EXPECT_TRUE(ids == vector["slow"] || ids == vector["fast"]) << vector["group"] << ids;
  }
}

}  // namespace
}  // namespace optserve
