#include "server/api/json_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

namespace optserve {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

// The next value as nlohmann's document, read by our reader.
Json ReadValue(JsonReader& reader) {
  switch (reader.Peek()) {
    case JsonReader::Kind::kNull:
      reader.ReadNull();
      return nullptr;
    case JsonReader::Kind::kBool: {
      bool value = false;
      reader.ReadBool(value);
      return value;
    }
    case JsonReader::Kind::kNumber: {
      JsonNumber number;
      reader.ReadNumber(number);
      return number.value;
    }
    case JsonReader::Kind::kString: {
      std::string value;
      reader.ReadString(value);
      return value;
    }
    case JsonReader::Kind::kArray: {
      Json array = Json::array();
      reader.EnterArray();
      while (reader.NextElement()) array.push_back(ReadValue(reader));
      return array;
    }
    case JsonReader::Kind::kObject: {
      Json object = Json::object();
      std::string key;
      reader.EnterObject();
      while (reader.NextKey(key)) object[key] = ReadValue(reader);
      return object;
    }
    case JsonReader::Kind::kNone:
      reader.ReadNull();  // makes the error
  }
  return nullptr;
}

std::optional<Json> Read(std::string_view text) {
  JsonReader reader(text);
  Json value = ReadValue(reader);
  if (!reader.Finish()) return std::nullopt;
  return value;
}

std::string ErrorOf(std::string_view text) {
  JsonReader reader(text);
  ReadValue(reader);
  reader.Finish();
  return std::string(reader.status().message());
}

bool Skips(std::string_view text) {
  JsonReader reader(text);
  return reader.Skip() && reader.Finish();
}

// Pieces that JSON is made of and broken by; no zero byte, which nlohmann takes for the end of the text.
std::string RandomText(std::mt19937& random) {
  static const std::vector<std::string> kPieces = {"{",
                                                   "}",
                                                   "[",
                                                   "]",
                                                   ",",
                                                   ":",
                                                   "\"",
                                                   "\"a\"",
                                                   "\"b\"",
                                                   "1",
                                                   "-0",
                                                   "1.5",
                                                   "1e5",
                                                   "1E-2",
                                                   "01",
                                                   "-",
                                                   ".5",
                                                   "1.",
                                                   "1e",
                                                   "true",
                                                   "false",
                                                   "null",
                                                   "nul",
                                                   "NaN",
                                                   " ",
                                                   "\n",
                                                   "\t",
                                                   "\\n",
                                                   "\\u0041",
                                                   "\\ud83d\\ude00",
                                                   "\\ud83d",
                                                   "\\x",
                                                   "\xc3\xa9",
                                                   "\xff",
                                                   "\xed\xa0\x80",
                                                   "\x01",
                                                   "9223372036854775808",
                                                   "1e308",
                                                   "\\",
                                                   "/"};
  std::string text;
  const size_t num_pieces = 1 + random() % 9;
  for (size_t i = 0; i < num_pieces; ++i) text += kPieces[random() % kPieces.size()];
  return text;
}

TEST(JsonReaderTest, TakesAndRefusesWhatNlohmannDoes) {
  std::mt19937 random(1);
  int num_valid = 0;
  for (int round = 0; round < 300'000; ++round) {
    // Half of the texts are in brackets, so that more of them are JSON.
    std::string text = RandomText(random);
    if (round % 2 == 0) text = std::string("[").append(text).append("]");
    const Json expected = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    const std::optional<Json> read = Read(text);
    ASSERT_EQ(read.has_value(), !expected.is_discarded()) << text << ErrorOf(text);
    ASSERT_EQ(Skips(text), read.has_value() && ErrorOf(text).empty()) << text;
    if (!read) continue;
    ++num_valid;
    ASSERT_EQ(*read, expected) << text;
  }
  EXPECT_GT(num_valid, 5'000);
}

TEST(JsonReaderTest, ReadsBackWhatNlohmannWrites) {
  std::mt19937 random(2);
  const std::function<Json(int)> make = [&](int depth) -> Json {
    switch (random() % (depth > 4 ? 5 : 7)) {
      case 0:
        return nullptr;
      case 1:
        return random() % 2 == 0;
      case 2:
        return static_cast<int32_t>(random());
      case 3: {
        uint64_t bits = (uint64_t{random()} << 32) | random();
        double value = 0;
        std::memcpy(&value, &bits, sizeof(value));
        return std::isfinite(value) ? value : 0.5;
      }
      case 4:
        return std::string(random() % 5, static_cast<char>(random() % 128)) + "\u00e9\U0001F600";
      case 5: {
        Json array = Json::array();
        for (size_t i = random() % 4; i > 0; --i) array.push_back(make(depth + 1));
        return array;
      }
      default: {
        Json object = Json::object();
        for (size_t i = random() % 4; i > 0; --i) object[std::string("k").append(std::to_string(i))] = make(depth + 1);
        return object;
      }
    }
  };
  for (int round = 0; round < 3'000; ++round) {
    const Json json = make(0);
    for (const std::string& text : {json.dump(), json.dump(2), json.dump(-1, ' ', /*ensure_ascii=*/true)}) {
      ASSERT_EQ(Read(text), json) << text;
      ASSERT_TRUE(Skips(text)) << text;
    }
  }
}

TEST(JsonReaderTest, NumbersAreIntegersWhenTheyAreOneAndFit) {
  const auto read = [](std::string_view text) {
    JsonReader reader(text);
    JsonNumber number;
    EXPECT_TRUE(reader.ReadNumber(number) && reader.Finish()) << text;
    return number;
  };
  EXPECT_EQ(read("5").integer, 5);
  EXPECT_EQ(read("-5").integer, -5);
  EXPECT_EQ(read("-0").integer, 0);
  EXPECT_EQ(read("5.0").integer, 5);
  EXPECT_EQ(read("50e-1").integer, 5);
  EXPECT_EQ(read("9223372036854775807").integer, INT64_MAX);
  EXPECT_EQ(read("-9223372036854775808").integer, INT64_MIN);
  EXPECT_EQ(read("9223372036854775808").integer, std::nullopt);
  EXPECT_EQ(read("9223372036854775808").value, 9223372036854775808.0);
  EXPECT_EQ(read("9007199254740993").integer, 9007199254740993);  // no double in between
  EXPECT_EQ(read("9007199254740994.0").integer, std::nullopt);    // where doubles are coarse, points are not integers
  EXPECT_EQ(read("5.5").integer, std::nullopt);
  EXPECT_EQ(read("1e-400").value, 0.0);
  EXPECT_EQ(read("1e-400").integer, 0);
  EXPECT_EQ(read("123456789012345678901234567890").value, 123456789012345678901234567890.0);
}

TEST(JsonReaderTest, ErrorsSayWhatAndWhere) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("ends too early at byte 0"));
  EXPECT_THAT(ErrorOf("[1,NaN]"), HasSubstr("NaN is not a JSON number at byte 3"));
  EXPECT_THAT(ErrorOf("[1 2]"), HasSubstr("expected ',' or ']' at byte 3"));
  EXPECT_THAT(ErrorOf("[1e400]"), HasSubstr("too large at byte 1"));
  EXPECT_THAT(ErrorOf("{\"a\":1,}"), HasSubstr("expected a key in quotes at byte 7"));
  EXPECT_THAT(ErrorOf("{\"a\" 1}"), HasSubstr("expected ':' at byte 5"));
  EXPECT_THAT(ErrorOf("\"a\\q\""), HasSubstr("unknown escape at byte 2"));
  EXPECT_THAT(ErrorOf("\"\\ud800x\""), HasSubstr("a lone surrogate at byte 1"));
  EXPECT_THAT(ErrorOf("\"a\nb\""), HasSubstr("0x0a in a string must be escaped at byte 2"));
  EXPECT_THAT(ErrorOf("\"a\xff\""), HasSubstr("not UTF-8 at byte 2"));
  EXPECT_THAT(ErrorOf("1 2"), HasSubstr("more text behind the end at byte 2"));
  EXPECT_THAT(ErrorOf("\xEF\xBB\xBF{}"), HasSubstr("byte order mark"));
}

TEST(JsonReaderTest, TellsErrorsOfValuesFromErrorsAroundThem) {
  const auto is_value_error = [](std::string_view text) {
    JsonReader reader(text);
    EXPECT_FALSE(reader.Skip());
    return reader.is_value_error();
  };
  EXPECT_TRUE(is_value_error("[NaN]"));
  EXPECT_TRUE(is_value_error("[1e400]"));
  EXPECT_TRUE(is_value_error("[\"\\ud800\"]"));
  EXPECT_FALSE(is_value_error("NaN"));  // of no member
  EXPECT_FALSE(is_value_error("[1"));
  EXPECT_FALSE(is_value_error("[true;2]"));
  EXPECT_FALSE(is_value_error("{\"\\ud800\":1}"));  // in a key
}

TEST(JsonReaderTest, NestsToItsLimitAndNotBeyond) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(Skips(nested(JsonReader::kMaxDepth)));
  EXPECT_FALSE(Skips(nested(JsonReader::kMaxDepth + 1)));
  EXPECT_THAT(ErrorOf(nested(JsonReader::kMaxDepth + 1)), HasSubstr("more than 32 levels at byte 32"));
  EXPECT_FALSE(Skips(std::string(16 << 20, '[')));  // at once, and without a stack of its own
}

TEST(JsonReaderTest, SkippedObjectsHaveNoKeyTwice) {
  EXPECT_TRUE(Skips(R"({"a":{"b":1},"b":[{"a":1},{"a":2}]})"));
  EXPECT_FALSE(Skips(R"({"a":1,"b":2,"a":3})"));
  EXPECT_FALSE(Skips(R"({"x":[{"a":1,"\u0061":2}]})"));
  std::string many = "{";
  for (int i = 0; i < 1025; ++i) many.append(i == 0 ? "\"" : ",\"").append(std::to_string(i)).append("\":0");
  many.append("}");  // a table of keys that a stranger could make as large as he likes
  JsonReader reader(many);
  EXPECT_FALSE(reader.Skip());
  EXPECT_THAT(std::string(reader.status().message()), HasSubstr("the body has an object with more than 1024 keys"));
}

TEST(JsonReaderTest, ErrorsStick) {
  JsonReader reader("[1,x]");
  JsonNumber number;
  ASSERT_TRUE(reader.EnterArray() && reader.NextElement() && reader.ReadNumber(number) && reader.NextElement());
  EXPECT_FALSE(reader.ReadNumber(number));
  const absl::Status first = reader.status();
  EXPECT_FALSE(reader.ReadNull());
  EXPECT_FALSE(reader.NextElement());
  EXPECT_FALSE(reader.Finish());
  EXPECT_EQ(reader.Peek(), JsonReader::Kind::kNone);
  EXPECT_EQ(reader.status(), first);
}

}  // namespace
}  // namespace optserve
