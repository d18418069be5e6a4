#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <set>
#include <string>

#include "clients/cpp/cli/metrics_page.h"
#include "clients/cpp/cli/request_fields.h"
#include "clients/cpp/cli/server_access.h"
#include "clients/cpp/cli/terminal.h"
#include "clients/cpp/cli/watch.h"

// The parts of optserve-cli that need neither server nor terminal; tests/e2e/cli_test.py has the rest.

namespace optserve::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// --- what is asked
// -----------------------------------------------------------------------------------------------------

TEST(RequestFieldsTest, EveryFieldOfTheApiIsAFlagOrHasAReason) {
  // The prompt is an argument; --timeout is the call's; events and usage are what the command asks for itself; metadata
  // has no effect; biases are a map, and ids in place of texts are for programs.
  std::set<std::string> names = {"prompt",   "timeout",    "stream_options",
                                 "metadata", "logit_bias", "return_tokens_as_token_ids"};
  for (const RequestField& field : RequestFields()) names.emplace(field.name);
  const auto& descriptor = *v1::CompletionRequest::descriptor();
  for (int i = 0; i < descriptor.field_count(); ++i) EXPECT_EQ(names.count(descriptor.field(i)->name()), 1U);
  EXPECT_EQ(static_cast<int>(names.size()), descriptor.field_count());
}

TEST(RequestFieldsTest, TextBecomesValues) {
  v1::CompletionRequest request;
  EXPECT_TRUE(SetField("max_tokens", "5", request).ok());
  EXPECT_TRUE(SetField("seed", "-9000000000", request).ok());
  EXPECT_TRUE(SetField("temperature", "0.5", request).ok());
  EXPECT_TRUE(SetField("echo", "true", request).ok());
  EXPECT_TRUE(SetField("stop", "a", request).ok());
  EXPECT_TRUE(SetField("stop", "", request).ok());
  EXPECT_TRUE(SetField("stop_token_ids", "7", request).ok());
  EXPECT_EQ(request.max_tokens(), 5);
  EXPECT_EQ(request.seed(), -9'000'000'000);
  EXPECT_EQ(request.temperature(), 0.5F);
  EXPECT_TRUE(request.echo());
  EXPECT_EQ(request.stop_size(), 2);
  EXPECT_EQ(request.stop_token_ids(0), 7);
}

TEST(RequestFieldsTest, WhatIsNoValueIsRefused) {
  v1::CompletionRequest request;
  for (const auto& [name, text] : std::vector<std::pair<const char*, const char*>>{{"max_tokens", "many"},
                                                                                   {"max_tokens", "5.5"},
                                                                                   {"max_tokens", ""},
                                                                                   {"max_tokens", "3000000000"},
                                                                                   {"seed", "1e3"},
                                                                                   {"temperature", "hot"},
                                                                                   {"temperature", "1,5"},
                                                                                   {"add_special_tokens", "yes"},
                                                                                   {"stop_token_ids", "x"}}) {
    const absl::Status status = SetField(name, text, request);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << name << " " << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
}

// --- the terminal
// ------------------------------------------------------------------------------------------------------

constexpr Terminal kColor = {.is_terminal = true, .has_color = true};
constexpr Terminal kTerminal = {.is_terminal = true};
constexpr Terminal kPipe = {};

TEST(TerminalTest, ControlCharactersDoNotReachATerminal) {
  EXPECT_EQ(Shown("a\x1b[2J\r\x07\x7f\tb\n", kTerminal), "a\u241b[2J\u240d\u2407\u2421\tb\n");
  EXPECT_EQ(Shown("\u009b2J caf\u00e9", kTerminal), "\uFFFD2J caf\u00e9");
  EXPECT_EQ(Shown("a\x1b[2J\r", kPipe), "a\x1b[2J\r");  // a file gets what the model said
}

TEST(TerminalTest, ColoursEndBeforeLines) {
  EXPECT_EQ(Painted("a\n\nb", 0.9, kColor), "\x1b[38;5;34ma\x1b[0m\n\n\x1b[38;5;34mb\x1b[0m");
  EXPECT_EQ(Painted("", 0.9, kColor), "");
  EXPECT_EQ(Painted("a", 0.9, kTerminal), "a");
}

TEST(TerminalTest, EachProbabilityHasItsColour) {
  const auto color = [](double probability) { return Painted("x", probability, kColor).substr(7, 3); };
  EXPECT_EQ(color(1), "34m");
  EXPECT_EQ(color(0.8), "34m");
  EXPECT_EQ(color(0.79), "148");
  EXPECT_EQ(color(0.2), "220");
  EXPECT_EQ(color(0.05), "208");
  EXPECT_EQ(color(0), "196");
  EXPECT_EQ(color(std::nan("")), "196");
  for (const char* shade : {"34m", "148", "220", "208", "196"}) EXPECT_THAT(ColorLegend(kColor), HasSubstr(shade));
  EXPECT_EQ(ColorLegend(kPipe), "");
}

// --- metrics
// -----------------------------------------------------------------------------------------------------------

MetricsPage Page(const std::string& text) { return MetricsPage::Parse(text).value(); }

TEST(MetricsPageTest, ReadsValuesBucketsAndLabels) {
  const MetricsPage page = Page(
      "# HELP a b\n# TYPE a counter\na 5\nb_bucket{le=\"+Inf\"} 3\nb_bucket{le=\"0.5\"} 2\nb_sum 1e-3\n"
      "info{version=\"1 2\"} 1\nnan NaN\n\n");
  EXPECT_EQ(page.Value("a"), 5);
  EXPECT_EQ(page.Value("b_sum"), 0.001);
  EXPECT_EQ(page.Value("absent"), 0);
  EXPECT_TRUE(std::isnan(page.Value("nan")));
  ASSERT_EQ(page.buckets.at("b").size(), 2U);
  EXPECT_EQ(page.buckets.at("b")[0].bound, 0.5);  // by bound
  EXPECT_EQ(page.labels_of.at("info"), "version=\"1 2\"");
}

TEST(MetricsPageTest, WhatIsNoMetricIsNamed) {
  for (const char* text : {"<html>\n", "a\n", "a b\n", " 5\n", "a{le=\"1\" 5\n", "a_bucket{le=\"x\"} 5\n",
                           "a_bucket{} 5\n", "a_bucket{le=\"NaN\"} 5\n"}) {
    const absl::Status status = MetricsPage::Parse(std::string("good 1\n") + text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("line 2"));
  }
}

std::string Histogram(int below_1, int below_2, int all) {
  return "h_bucket{le=\"1\"} " + std::to_string(below_1) + "\nh_bucket{le=\"2\"} " + std::to_string(below_2) +
         "\nh_bucket{le=\"+Inf\"} " + std::to_string(all) + "\n";
}

TEST(QuantileTest, IsInterpolatedWithinItsBucket) {
  const MetricsPage none = Page(Histogram(0, 0, 0));
  EXPECT_EQ(QuantileBetween(none, Page(Histogram(10, 10, 10)), "h", 0.5), 0.5);
  EXPECT_EQ(QuantileBetween(none, Page(Histogram(10, 20, 20)), "h", 0.75), 1.5);
  EXPECT_EQ(QuantileBetween(none, Page(Histogram(0, 0, 10)), "h", 0.5), 2);  // beyond all bounds: the last one
  EXPECT_EQ(QuantileBetween(none, none, "h", 0.5), std::nullopt);
  EXPECT_EQ(QuantileBetween(none, none, "absent", 0.5), std::nullopt);
  const MetricsPage endless = Page("h_bucket{le=\"1\"} NaN\nh_bucket{le=\"2\"} 1\nh_bucket{le=\"+Inf\"} +Inf\n");
  EXPECT_EQ(QuantileBetween(none, endless, "h", 0.5), std::nullopt);
}

TEST(QuantileTest, IsOfWhatCameBetweenThePages) {
  const MetricsPage before = Page(Histogram(100, 100, 100));
  EXPECT_EQ(QuantileBetween(before, Page(Histogram(100, 110, 110)), "h", 0.5), 1.5);
  EXPECT_EQ(QuantileBetween(before, Page(Histogram(0, 5, 5)), "h", 0.5), std::nullopt);  // another process since
}

TEST(WatchTest, RatesAreByTheTimeBetweenThePages) {
  const Look look =
      LookAt(Page("optserve_generation_tokens_total 100\noptserve_prefix_cache_queries_total 10\n"),
             Page("optserve_generation_tokens_total 150\noptserve_prefix_cache_queries_total "
                  "30\noptserve_prefix_cache_hits_total 5\n"
                  "optserve_requests_running 3\noptserve_requests_waiting 2\noptserve_kv_cache_usage_ratio 0.25\n"
                  "optserve_engine_healthy 1\n"),
             0.5);
  EXPECT_EQ(look.generation_tokens_per_second, 100);
  EXPECT_EQ(look.cache_hit_ratio, 0.25);
  EXPECT_EQ(look.running, 3);
  EXPECT_TRUE(look.is_healthy);
  EXPECT_THAT(LookLine(look), HasSubstr("running 3  waiting 2  kv 25.0 %  prompt 0 tok/s  generated 100 tok/s"));
  const Look restarted = LookAt(Page("optserve_generation_tokens_total 100\n"), Page(""), 1);
  EXPECT_EQ(restarted.generation_tokens_per_second, 0);
  EXPECT_THAT(LookLine(restarted), HasSubstr("not healthy"));
}

TEST(WatchTest, TheViewFitsAndHasABarAsLongAsTheUsage) {
  const Look look = {.kv_usage = 0.5, .is_healthy = true};
  const std::string view = LookView(look, "title", {1, 2, 4}, kPipe, 44);
  EXPECT_THAT(view, HasSubstr("██████████░░░░░░░░░░ 50.0 %"));
  EXPECT_THAT(view, HasSubstr("▃▅█\n"));
  EXPECT_THAT(view, Not(HasSubstr("\x1b")));
  EXPECT_THAT(LookView(look, "title", {}, kColor, 44), HasSubstr("\x1b[1mtitle\x1b[0m"));
}

// --- errors
// ------------------------------------------------------------------------------------------------------------

TEST(HintTest, SaysWhatToDo) {
  const auto hint = [](absl::Status status, const std::string& address) {
    return HintFor(status, {.address = address, .timeout_seconds = 2});
  };
  EXPECT_THAT(hint(absl::UnavailableError("connecting to x: Connection refused"), "http://x:1"),
              HasSubstr("no server answers at http://x:1"));
  EXPECT_THAT(hint(absl::FailedPreconditionError("TLS with x: certificate verify failed"), "https://x:1"),
              HasSubstr("--ca-file"));
  EXPECT_THAT(hint(absl::UnauthenticatedError("key"), "http://x:1"), HasSubstr("OPTSERVE_API_KEY"));
  EXPECT_THAT(hint(absl::DeadlineExceededError("late"), "http://x:1"), HasSubstr("it had 2 s"));
  EXPECT_EQ(hint(absl::InvalidArgumentError("temperature"), "http://x:1"), "");
}

}  // namespace
}  // namespace optserve::cli
