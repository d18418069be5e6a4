#include "clients/bench/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "clients/bench/report.h"

namespace optserve::bench {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// A report of one run whose answers take `seconds` and a little more.
Report MakeReport(const std::string& name, double seconds) {
  Run run{.name = name, .warm_up = 1};
  for (int i = 0; i < 50; ++i) {
    RequestRecord record{.index = i, .due = 1.0 * i, .sent = 1.0 * i};
    for (int token = 1; token <= 4; ++token) record.token_times.push_back(i + seconds * (token + 0.01 * (i % 7)));
    record.token_counts.assign(4, 1);
    record.ended = record.token_times.back();
    record.outcome = {.prompt_tokens = 3, .output_tokens = 4};
    run.records.push_back(record);
  }
  run.records.back().outcome = {.error = "503 \"engine_dead\"", .in_stream = true};
  run.summary = Summarize(run.records, run.warm_up, {});
  Report report{.command = "optserve bench", .target = "a </script> model"};
  report.runs.push_back(std::move(run));
  return report;
}

TEST(CompareTest, RatiosAreThoseOfTheLatencies) {
  const auto metrics = CompareReports(ReportJson(MakeReport("x", 0.1)), ReportJson(MakeReport("x", 0.2)));
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  ASSERT_EQ(metrics->size(), 8u);
  EXPECT_NEAR(metrics->at(0).ratio.value, 2.0, 0.01);
  EXPECT_LT(metrics->at(0).ratio.low, 2.01);
  EXPECT_GT(metrics->at(0).ratio.high, 1.99);
  EXPECT_THAT(CompareText(*metrics), HasSubstr("TTFT p50 ms"));
  EXPECT_THAT(CompareJson(*metrics), HasSubstr("\"ratio\""));
}

TEST(CompareTest, TheSameTwiceDiffersByNothing) {
  const std::string json = ReportJson(MakeReport("x", 0.1));
  const auto metrics = CompareReports(json, json);
  ASSERT_TRUE(metrics.ok());
  for (const ComparedMetric& metric : *metrics) {
    EXPECT_DOUBLE_EQ(metric.ratio.value, 1.0) << metric.name;
    EXPECT_LE(metric.ratio.low, 1.0);
    EXPECT_GE(metric.ratio.high, 1.0);
  }
}

TEST(CompareTest, OtherFilesAreRefused) {
  const std::string json = ReportJson(MakeReport("x", 0.1));
  EXPECT_FALSE(CompareReports("{}", json).ok());
  EXPECT_FALSE(CompareReports(json, "no JSON").ok());
  EXPECT_TRUE(CompareReports(json, ReportJson(MakeReport("of another name", 0.1))).ok());
}

TEST(ReportTest, CsvHasALineForEachRequest) {
  const std::string csv = ReportCsv(MakeReport("x", 0.1));
  EXPECT_EQ(std::ranges::count(csv, '\n'), 51);
  EXPECT_THAT(csv, HasSubstr("\"x\",49,,0,49.000000"));
  EXPECT_THAT(csv, HasSubstr("\"503 \"\"engine_dead\"\"\",1\n"));
}

TEST(ReportTest, ThePageHoldsTheReportAndNoWayOut) {
  const std::string page = ReportHtml(ReportJson(MakeReport("x", 0.1)));
  EXPECT_THAT(page, HasSubstr("a \\u003c/script> model"));
  EXPECT_THAT(page, Not(HasSubstr("@REPORT@")));
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
  for (const char* outside : {"src=\"http", "href=\"http", "@import", "url("})
    EXPECT_THAT(page, Not(HasSubstr(outside)));
}

TEST(ReportTest, TextNamesErrorsInsideStreams) {
  const std::string text = ReportText(MakeReport("x", 0.1));
  EXPECT_THAT(text, HasSubstr("49 requests after 1 of warm-up, 48 answered whole"));
  EXPECT_THAT(text, HasSubstr("1 x 503 \"engine_dead\", 1 of them inside streams"));
}

}  // namespace
}  // namespace optserve::bench
