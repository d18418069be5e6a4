#include "clients/cpp/sse_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace optserve::client {
namespace {

using ::testing::ElementsAre;

// The events of `bytes` that come `piece` at a time.
std::vector<std::string> Events(std::string_view bytes, size_t piece) {
  SseReader reader(/*max_event_bytes=*/100);
  std::vector<std::string> events;
  std::string data;
  for (size_t begin = 0; begin < bytes.size(); begin += piece) {
    reader.Feed(bytes.substr(begin, piece));
    while (reader.Next(data).value()) events.push_back(data);
  }
  return events;
}

class SseReaderTest : public ::testing::TestWithParam<size_t> {};

TEST_P(SseReaderTest, TakesEventsApart) {
  EXPECT_THAT(Events("data: one\n\ndata: two\n\n", GetParam()), ElementsAre("one", "two"));
}

TEST_P(SseReaderTest, TakesEveryKindOfLineEnd) {
  EXPECT_THAT(Events("data: a\r\n\r\ndata: b\r\rdata: c\n\n\n", GetParam()), ElementsAre("a", "b", "c"));
}

TEST_P(SseReaderTest, SkipsCommentsAndOtherFields) {
  EXPECT_THAT(Events(": ping\n\nevent: x\nid: 7\ndata: a\nretry: 5\n\n: ping\n\n", GetParam()), ElementsAre("a"));
}

TEST_P(SseReaderTest, JoinsTheLinesOfAnEvent) {
  EXPECT_THAT(Events("data: a\ndata:b\ndata:  c\n\n", GetParam()), ElementsAre("a\nb\n c"));
}

TEST_P(SseReaderTest, AnEventNeedsItsBlankLine) {
  EXPECT_THAT(Events("data: a\n\ndata: b\n", GetParam()), ElementsAre("a"));
}

TEST_P(SseReaderTest, AnEmptyEventIsOne) { EXPECT_THAT(Events("data:\n\n", GetParam()), ElementsAre("")); }

INSTANTIATE_TEST_SUITE_P(Pieces, SseReaderTest, ::testing::Values(1, 2, 3, 5, 1000));

TEST(SseReaderLimitTest, AnEventIsNotLongerThanAllowed) {
  std::string data;
  SseReader one_line(10);
  one_line.Feed("data: 12345678901");
  EXPECT_TRUE(absl::IsResourceExhausted(one_line.Next(data).status()));
  SseReader many_lines(10);
  for (int i = 0; i < 3; ++i) many_lines.Feed("data: 1234\n");
  EXPECT_TRUE(absl::IsResourceExhausted(many_lines.Next(data).status()));
  SseReader whole(10);
  whole.Feed("data: 12345678901\n\n");
  EXPECT_TRUE(absl::IsResourceExhausted(whole.Next(data).status()));
  SseReader fits(10);
  fits.Feed("data: 1234567890\n\ndata: 1234567890\n\n");
  EXPECT_TRUE(fits.Next(data).value());
  EXPECT_TRUE(fits.Next(data).value());
}

}  // namespace
}  // namespace optserve::client
