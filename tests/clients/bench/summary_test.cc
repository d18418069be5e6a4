#include "clients/bench/summary.h"

#include <gtest/gtest.h>

namespace optserve::bench {
namespace {

RequestRecord Record(double due, std::vector<double> token_times, double ended) {
  RequestRecord record{.due = due, .sent = due, .ended = ended, .token_times = std::move(token_times)};
  record.token_counts.assign(record.token_times.size(), 1);
  record.outcome = {.prompt_tokens = 10, .output_tokens = record.num_tokens()};
  return record;
}

TEST(SummaryTest, LatenciesCountFromWhenARequestWasDue) {
  RequestRecord late = Record(1.0, {2.0, 2.1, 2.4}, 2.5);
  late.sent = 1.75;
  const Summary s = Summarize({&late, 1}, 0, {});
  EXPECT_DOUBLE_EQ(s.latencies.time_to_first_token.at(0), 1.0);
  EXPECT_DOUBLE_EQ(s.latencies.end_to_end.at(0), 1.5);
  EXPECT_DOUBLE_EQ(s.latencies.time_per_output_token.at(0), 0.2);
  ASSERT_EQ(s.latencies.inter_token.size(), 2u);
  EXPECT_NEAR(s.latencies.inter_token[1], 0.3, 1e-12);
  EXPECT_DOUBLE_EQ(s.late_p99, 0.75);
}

TEST(SummaryTest, TheWarmUpCountsNowhere) {
  const std::vector<RequestRecord> records = {Record(0, {50}, 100), Record(100, {101}, 102), Record(101, {102}, 104)};
  const Summary s = Summarize(records, 1, {});
  EXPECT_EQ(s.requests, 2);
  EXPECT_EQ(s.prompt_tokens, 20);
  EXPECT_EQ(s.output_tokens, 2);
  EXPECT_DOUBLE_EQ(s.seconds, 4);
  EXPECT_DOUBLE_EQ(s.output_tokens_per_second, 0.5);
  EXPECT_DOUBLE_EQ(s.total_tokens_per_second, 5.5);
  EXPECT_EQ(s.latencies.end_to_end.size(), 2u);
}

TEST(SummaryTest, GoodputCountsAnswersWithinAllLimits) {
  const Limits limits{.time_to_first_token = 1.0, .time_per_output_token = 0.5, .end_to_end = 3.0};
  std::vector<RequestRecord> records = {
      Record(0, {0.5, 0.9}, 1),     // good
      Record(0, {1.5, 1.6}, 1.7),   // the first token is late
      Record(0, {0.5, 1.2}, 1.3),   // the second is
      Record(0, {0.5, 0.9}, 10.0),  // the end is
      Record(0, {0.5, 0.9}, 1),
  };
  records[4].outcome.error = "500";
  EXPECT_TRUE(IsGood(records[0], limits));
  const Summary s = Summarize(records, 0, limits);
  EXPECT_DOUBLE_EQ(s.good_share, 0.2);
  EXPECT_DOUBLE_EQ(s.goodput, 0.1);
  EXPECT_TRUE(s.has_limits);
}

TEST(SummaryTest, ErrorsAreCountedByClassAndInsideStreams) {
  std::vector<RequestRecord> records = {Record(0, {1}, 2), Record(0, {1}, 2), Record(0, {}, 2)};
  records[1].outcome = {.error = "engine_dead", .in_stream = true};
  records[2].outcome = {.error = "429"};
  const Summary s = Summarize(records, 0, {});
  EXPECT_EQ(s.answered, 1);
  EXPECT_EQ(s.errors.at("engine_dead"), 1);
  EXPECT_EQ(s.errors.at("429"), 1);
  EXPECT_EQ(s.errors_in_stream.size(), 1u);
  EXPECT_EQ(s.latencies.end_to_end.size(), 1u);
}

TEST(SummaryTest, TokensAreTheServersCountAndDifferencesAreSaid) {
  RequestRecord record = Record(0, {1, 2}, 3);
  record.token_counts = {1, 4};
  record.outcome.output_tokens = 6;
  const Summary s = Summarize({&record, 1}, 0, {});
  EXPECT_EQ(s.output_tokens, 6);
  EXPECT_EQ(s.counted_by_usage, 1);
  EXPECT_EQ(s.counted_exactly, 0);
  EXPECT_EQ(s.merged_arrivals, 1);
  EXPECT_DOUBLE_EQ(s.latencies.time_per_output_token.at(0), 0.2) << "five of six came after the first";
}

TEST(SummaryTest, WithoutUsageTextsAreCountedAndThatIsSaid) {
  RequestRecord record = Record(0, {1, 2, 3}, 3);
  record.outcome.output_tokens = 0;
  const Summary s = Summarize({&record, 1}, 0, {});
  EXPECT_EQ(s.output_tokens, 3);
  EXPECT_EQ(s.counted_by_chunks, 1);
  EXPECT_EQ(s.counted_by_usage + s.counted_exactly, 0);
  EXPECT_DOUBLE_EQ(s.latencies.time_per_output_token.at(0), 1.0);
}

TEST(SummaryTest, KindsAreAlsoSummedAlone) {
  std::vector<RequestRecord> records = {Record(0, {1}, 2), Record(0, {3}, 4)};
  records[0].kind = "stream";
  records[1].kind = "prompt";
  const Summary s = Summarize(records, 0, {});
  EXPECT_EQ(s.by_kind.at("stream").time_to_first_token, std::vector<double>{1});
  EXPECT_EQ(s.by_kind.at("prompt").time_to_first_token, std::vector<double>{3});
}

TEST(SummaryTest, TheKneeIsTheLastLoadThatIsBorne) {
  const std::vector<SweepPoint> points = {
      {.offered = 1, .achieved = 1, .end_to_end_p50 = 1.0, .good_share = 1.0},
      {.offered = 2, .achieved = 2, .end_to_end_p50 = 1.5, .good_share = 0.95},
      {.offered = 3, .achieved = 2.95, .end_to_end_p50 = 2.5, .good_share = 0.8},
      {.offered = 4, .achieved = 3.0, .end_to_end_p50 = 1.9, .good_share = 0.95},
  };
  EXPECT_EQ(KneeOf(points, /*has_limits=*/false), 1);
  EXPECT_EQ(KneeOf(points, /*has_limits=*/true), 1);
  EXPECT_EQ(KneeOf(std::span(points).subspan(3), true), -1);
}

}  // namespace
}  // namespace optserve::bench
