#include "server/text/stop_matcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "server/text/utf8.h"

namespace optserve {
namespace {

// By definition: the match that ends first, of those the longest.
std::optional<StopMatcher::Match> NaiveMatch(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<StopMatcher::Match> best;
    for (size_t i = 0; i < stops.size(); ++i) {
      if (stops[i].empty() || !std::string_view(text).substr(0, end).ends_with(stops[i])) continue;
      const size_t begin = end - stops[i].size();
      if (!best || begin < best->begin) best = {.stop_index = i, .begin = begin, .end = end};
    }
    if (best) return best;
  }
  return std::nullopt;
}

// By definition: the longest end of `text` that is a proper beginning of a stop string.
size_t NaiveHeld(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t length = text.size(); length > 0; --length) {
    for (const std::string& stop : stops) {
      if (stop.size() > length && text.ends_with(stop.substr(0, length))) return length;
    }
  }
  return 0;
}

TEST(StopMatcherTest, FindsAStopStringAcrossPieces) {
  StopMatcher matcher({"\n\n", "END"});
  EXPECT_EQ(matcher.Push("one E").text, "one ");
  EXPECT_EQ(matcher.Push("N").text, "");
  EXPECT_EQ(matcher.Push("E").text, "EN");
  const StopMatcher::Output last = matcher.Push("ND and more");
  EXPECT_EQ(last.text, "");
  ASSERT_TRUE(last.match.has_value());
  EXPECT_EQ(last.match->stop_index, 1u);
  EXPECT_EQ(last.match->begin, 6u);
  EXPECT_EQ(last.match->end, 9u);
  EXPECT_EQ(matcher.Push("ignored").text, "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, FlushGivesBackWhatWasHeld) {
  StopMatcher matcher({"stop"});
  EXPECT_EQ(matcher.Push("don't sto").text, "don't ");
  EXPECT_EQ(matcher.Flush(), "sto");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, OfSeveralTheFirstToEndThenTheLongest) {
  const StopMatcher::Output output = StopMatcher({"c", "abc", "abcd"}).Push("xabcd");
  EXPECT_EQ(output.text, "x");
  EXPECT_EQ(output.match->stop_index, 1u);
}

TEST(StopMatcherTest, WithoutStopStringsNothingWaits) {
  StopMatcher none({});
  EXPECT_EQ(none.Push("text").text, "text");
  StopMatcher empty({""});
  EXPECT_EQ(empty.Push("text").text, "text");
}

TEST(StopMatcherTest, AgreesWithTheDefinitionHoweverTheTextIsCut) {
  std::mt19937 random(3);
  const std::vector<std::string> alphabet = {"a", "b", "é", "è"};  // é and è share their first byte
  const auto text_of = [&](int max_length) {
    std::string text;
    for (int i = static_cast<int>(random() % (max_length + 1)); i > 0; --i) text += alphabet[random() % 4];
    return text;
  };
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(random() % 4);
    for (std::string& stop : stops) stop = text_of(6);
    StopMatcher matcher(stops);
    std::string text;
    std::string shown;
    std::optional<StopMatcher::Match> match;
    while (!match && text.size() < 40) {
      const std::string piece = text_of(5) + "a";
      text += piece;
      StopMatcher::Output output = matcher.Push(piece);
      ASSERT_EQ(FindInvalidUtf8(output.text), std::nullopt);
      shown += output.text;
      match = output.match;
      const std::optional<StopMatcher::Match> expected = NaiveMatch(stops, text);
      ASSERT_EQ(match.has_value(), expected.has_value());
      if (!match) {
        ASSERT_EQ(shown, text.substr(0, text.size() - NaiveHeld(stops, text)));
        continue;
      }
      ASSERT_EQ(match->begin, expected->begin);
      ASSERT_EQ(match->end, expected->end);
      ASSERT_EQ(stops[match->stop_index], stops[expected->stop_index]);
      ASSERT_EQ(shown, text.substr(0, match->begin));
    }
    shown += matcher.Flush();
    ASSERT_EQ(shown, match ? text.substr(0, match->begin) : text);
  }
}

// Quadratic behaviour would take minutes here, not milliseconds.
TEST(StopMatcherTest, LongStopStringsStayLinear) {
  std::string periodic;
  while (periodic.size() < (512 << 10)) periodic += "ab";
  StopMatcher matcher({periodic + "c", std::string(1 << 20, 'a')});
  size_t num_shown = 0;
  for (int i = 0; i < 1 << 20; ++i) num_shown += matcher.Push("ab").text.size();
  EXPECT_EQ(num_shown + matcher.Flush().size(), size_t{2} << 20);
}

}  // namespace
}  // namespace optserve
