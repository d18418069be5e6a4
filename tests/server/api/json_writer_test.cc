#include "server/api/json_writer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "server/text/utf8.h"

namespace optserve {
namespace {

std::string String(std::string_view text) {
  std::string json;
  AppendJsonString(json, text);
  return json;
}

std::string Logprob(float value) {
  std::string json;
  AppendJsonLogprob(json, value);
  return json;
}

TEST(JsonWriterTest, StringsEscapeOnlyWhatMustBe) {
  EXPECT_EQ(String("a\"b\\c/d"), R"("a\"b\\c/d")");
  EXPECT_EQ(String("\n\r\t\b\x1f"), R"("\n\r\t\u0008\u001f")");
  EXPECT_EQ(String(std::string_view("\0", 1)), R"("\u0000")");
  EXPECT_EQ(String("\u00e9\u2028\U0001F600"), "\"\u00e9\u2028\U0001F600\"");
}

TEST(JsonWriterTest, StringsAreUtf8WhateverTheBytes) {
  std::mt19937 random(3);
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes(random() % 8, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random() % 3 == 0 ? random() % 128 : random() % 256);
    Utf8Stream stream;
    std::string text = stream.Push(bytes);
    text += stream.Flush();
    ASSERT_EQ(nlohmann::json::parse(String(bytes)).get<std::string>(), text);
  }
}

TEST(JsonWriterTest, LogprobsReadBackAsTheSameFloat) {
  std::mt19937 random(4);
  for (int round = 0; round < 200'000; ++round) {
    const uint32_t bits = static_cast<uint32_t>(random());
    float value = 0;
    std::memcpy(&value, &bits, sizeof(value));
    if (!std::isfinite(value) || value < -9999.0f) continue;
    const std::string text = Logprob(value);
    ASSERT_EQ(std::strtof(text.c_str(), nullptr), value) << text;
    ASSERT_TRUE(nlohmann::json::parse(text).is_number_float()) << text;
  }
}

TEST(JsonWriterTest, LogprobsAreShortAndHaveAPoint) {
  EXPECT_EQ(Logprob(-0.1f), "-0.1");
  EXPECT_EQ(Logprob(0.0f), "0.0");
  EXPECT_EQ(Logprob(-7.0f), "-7.0");
  EXPECT_EQ(Logprob(-1.0e-7f), "-1e-07");
}

TEST(JsonWriterTest, WhatJsonCannotSayIsMinus9999) {
  EXPECT_EQ(Logprob(-std::numeric_limits<float>::infinity()), "-9999.0");
  EXPECT_EQ(Logprob(std::numeric_limits<float>::quiet_NaN()), "-9999.0");
  EXPECT_EQ(Logprob(-1.0e30f), "-9999.0");
  EXPECT_EQ(Logprob(-9998.5f), "-9998.5");
}

}  // namespace
}  // namespace optserve
