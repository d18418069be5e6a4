#include "engine/checkpoint/strict_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace optserve {
namespace {

using testing::HasSubstr;

std::string ErrorOf(std::string_view text) { return std::string(ParseStrictJson(text).status().message()); }

TEST(StrictJsonTest, ParsesWhatTheLibraryParses) {
  for (const char* text : {R"({"a": [1, -2, 3.5, true, false, null, "x"], "b": {"c": {}}})", "7", "[]", R"("text")"}) {
    EXPECT_EQ(*ParseStrictJson(text), nlohmann::json::parse(text)) << text;
  }
}

TEST(StrictJsonTest, RefusesDuplicateKeysDepthAndNonsense) {
  EXPECT_THAT(ErrorOf(R"({"a": 1, "b": {"a": 1}, "a": 2})"), HasSubstr("'a' occurs twice"));
  EXPECT_EQ(ErrorOf(R"({"a": 1, "b": {"a": 1}})"), "");
  EXPECT_THAT(ErrorOf(std::string(1'000'000, '[')), HasSubstr("nested deeper"));
  EXPECT_EQ(ErrorOf(std::string(32, '[') + std::string(32, ']')), "");
  EXPECT_THAT(ErrorOf("{\"a\": \"\xff\"}"), HasSubstr("not valid JSON at byte 8"));
  EXPECT_THAT(ErrorOf("{} {}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("not valid JSON"));
}

TEST(StrictJsonTest, BoundsTheNumberOfValues) {
  std::string text = "[0";
  for (int i = 0; i < 1'000'000; ++i) text += ",0";
  EXPECT_THAT(ErrorOf(text + "]"), HasSubstr("more than 1000000 values"));
}

TEST(StrictJsonTest, WholeNumbersAreThoseOfInt64) {
  const auto whole = [](const char* text) { return WholeNumber(*ParseStrictJson(text)); };
  EXPECT_EQ(whole("0"), 0);
  EXPECT_EQ(whole("9223372036854775807"), INT64_MAX);
  EXPECT_EQ(whole("-9223372036854775808"), INT64_MIN);
  for (const char* text : {"9223372036854775808", "18446744073709551616", "1e3", "4.0", "\"4\"", "null", "true"}) {
    EXPECT_EQ(whole(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace optserve
