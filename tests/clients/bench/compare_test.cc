#include "clients/bench/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <sstream>
#include <string>

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

TEST(CompareTest, EachFigureIsItsOwnQuantileOfItsOwnLatency) {
  Report slow_tail = MakeReport("x", 0.1);
  // Three first tokens in 50 come a second late, and with them their answers; nobody waits longer between two tokens.
  auto& run = slow_tail.runs[0];
  for (size_t i = 10; i < 13; ++i) {
    for (double& time : run.records[i].token_times) time += 1;
    run.records[i].ended += 1;
  }
  run.summary = Summarize(run.records, run.warm_up, {});
  const auto metrics = CompareReports(ReportJson(MakeReport("x", 0.1)), ReportJson(slow_tail));
  ASSERT_TRUE(metrics.ok());
  std::map<std::string, double> ratios;
  for (const ComparedMetric& metric : *metrics) ratios[metric.name] = metric.ratio.value;
  EXPECT_NEAR(ratios.at("TTFT p50 ms"), 1, 0.02);
  EXPECT_NEAR(ratios.at("TTFT p99 ms"), 10, 1);
  EXPECT_NEAR(ratios.at("E2E p50 ms"), 1, 0.02);
  EXPECT_NEAR(ratios.at("E2E p99 ms"), 3.5, 0.4);
  for (const char* name : {"ITL p50 ms", "ITL p99 ms", "TPOT p50 ms"}) EXPECT_NEAR(ratios.at(name), 1, 1e-6) << name;
}

TEST(CompareTest, RunsAreMatchedByTheirNames) {
  Report a = MakeReport("slow", 0.4);
  a.runs.push_back(MakeReport("fast", 0.1).runs[0]);
  Report b = MakeReport("fast", 0.1);
  b.runs.push_back(MakeReport("slow", 0.4).runs[0]);
  b.runs.push_back(MakeReport("of b alone", 0.9).runs[0]);
  const auto metrics = CompareReports(ReportJson(a), ReportJson(b));
  ASSERT_TRUE(metrics.ok());
  EXPECT_EQ(metrics->size(), 16u);
  for (const ComparedMetric& metric : *metrics) EXPECT_DOUBLE_EQ(metric.ratio.value, 1.0) << metric.run << metric.name;
}

TEST(CompareTest, WhatMayBeTheSameIsMarked) {
  const auto text_of = [](double a, double b) {
    return CompareText(CompareReports(ReportJson(MakeReport("x", a)), ReportJson(MakeReport("x", b))).value());
  };
  EXPECT_THAT(text_of(0.1, 0.1), HasSubstr("(1 is among them)"));
  for (const double b : {0.05, 0.2}) {
    std::istringstream lines(text_of(0.1, b));
    for (std::string line; std::getline(lines, line);) {
      if (line.find("TTFT") == line.npos) continue;
      EXPECT_THAT(line, Not(HasSubstr("1 is among them")));
    }
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
