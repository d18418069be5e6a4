#include "engine/util/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <sstream>
#include <vector>

namespace optserve {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

TEST(MetricsTest, EngineCountersAreShown) {
  const Metrics metrics("1.2.3");
  const std::string text = metrics.Render({.running = 3,
                                           .waiting = 2,
                                           .blocks_total = 8,
                                           .blocks_used = 2,
                                           .prompt_tokens = 100,
                                           .generated_tokens = 20,
                                           .preemptions = 4,
                                           .prefix_cache_queries = 16,
                                           .prefix_cache_hits = 12,
                                           .nonfinite_rows = 1,
                                           .step_account = {.times = {{1'500'000'000}}, .demand = {.kv_bytes = 7}},
                                           .request_account = {.times = {{0, 3'000'000'000}}},
                                           .request_seconds = 4.5},
                                          /*engine_healthy=*/true);
  for (const char* line :
       {"optserve_requests_running 3", "optserve_requests_waiting 2", "optserve_kv_cache_usage_ratio 0.25",
        "optserve_prompt_tokens_total 100", "optserve_generation_tokens_total 20", "optserve_preemptions_total 4",
        "optserve_prefix_cache_queries_total 16", "optserve_prefix_cache_hits_total 12",
        "optserve_nonfinite_rows_total 1", "optserve_engine_healthy 1", "optserve_build_info{version=\"1.2.3\"} 1",
        "optserve_engine_restarts_total 0", "optserve_step_phase_seconds_total{phase=\"weights\"} 1.5",
        "optserve_step_demand_total{kind=\"kv_bytes\"} 7",
        "optserve_request_phase_seconds_total{phase=\"attention\"} 3", "optserve_request_engine_seconds_total 4.5"}) {
    EXPECT_THAT(Lines(text), testing::Contains(line));
  }
  EXPECT_THAT(metrics.Render({}, /*engine_healthy=*/false), HasSubstr("\noptserve_engine_healthy 0\n"));
}

TEST(MetricsTest, VllmsDashboardsFindTheSameNumbers) {
  Metrics metrics("");
  metrics.ObserveTimeToFirstToken(0.5);
  metrics.ObserveInterTokenLatency(0.25);
  metrics.ObserveRequest(2, FinishReason::kLength);
  metrics.ObserveRequest(1, FinishReason::kCancelled);
  metrics.ObserveRequest(1, FinishReason::kDeadline);
  const std::string text = metrics.RenderAsVllm(
      {.running = 3, .waiting = 2, .blocks_total = 8, .blocks_used = 2, .prompt_tokens = 100, .generated_tokens = 20},
      "opt");
  for (const char* line : {"vllm:num_requests_running{model_name=\"opt\",engine=\"0\"} 3",
                           "vllm:num_requests_waiting{model_name=\"opt\",engine=\"0\"} 2",
                           "vllm:kv_cache_usage_perc{model_name=\"opt\",engine=\"0\"} 0.25",
                           "vllm:prompt_tokens_total{model_name=\"opt\",engine=\"0\"} 100",
                           "vllm:generation_tokens_total{model_name=\"opt\",engine=\"0\"} 20",
                           "vllm:time_to_first_token_seconds_sum{model_name=\"opt\",engine=\"0\"} 0.5",
                           "vllm:time_per_output_token_seconds_sum{model_name=\"opt\",engine=\"0\"} 0.25",
                           "vllm:inter_token_latency_seconds_sum{model_name=\"opt\",engine=\"0\"} 0.25",
                           "vllm:e2e_request_latency_seconds_count{model_name=\"opt\",engine=\"0\"} 3",
                           "vllm:request_success_total{model_name=\"opt\",engine=\"0\",finished_reason=\"length\"} 1",
                           "vllm:request_success_total{model_name=\"opt\",engine=\"0\",finished_reason=\"abort\"} 2"}) {
    EXPECT_THAT(Lines(text), testing::Contains(line));
  }
  EXPECT_THAT(text, Not(HasSubstr("optserve_")));
}

TEST(MetricsTest, ObservationsAreCounted) {
  Metrics metrics("");
  metrics.ObserveTimeToFirstToken(0.5);
  metrics.ObserveTimeToFirstToken(1.5);
  metrics.ObserveInterTokenLatency(0.25);
  metrics.ObserveRequest(2, FinishReason::kLength);
  metrics.ObserveRequest(4, FinishReason::kDeadline);
  metrics.ObserveRequestQueue(0.125);
  metrics.ObserveStep(0.0625, 32);
  metrics.CountEngineRestart();
  metrics.ObserveServing(1.5);
  metrics.ObserveServing(0.25);
  const std::string text = metrics.Render({}, true);
  for (const char* line :
       {"optserve_time_to_first_token_seconds_sum 2", "optserve_time_to_first_token_seconds_count 2",
        "optserve_time_to_first_token_seconds_bucket{le=\"0.5\"} 1",
        "optserve_time_to_first_token_seconds_bucket{le=\"+Inf\"} 2", "optserve_inter_token_latency_seconds_sum 0.25",
        "optserve_request_duration_seconds_sum 6", "optserve_requests_total{finish_reason=\"length\"} 1",
        "optserve_requests_total{finish_reason=\"deadline\"} 1", "optserve_requests_total{finish_reason=\"stop\"} 0",
        "optserve_request_queue_seconds_sum 0.125", "optserve_step_seconds_sum 0.0625", "optserve_step_tokens_sum 32",
        "optserve_engine_restarts_total 1", "optserve_request_serving_seconds_total 1.75"}) {
    EXPECT_THAT(Lines(text), testing::Contains(line));
  }
}

// The rules of `promtool check metrics` that apply: help and type for each family, before its samples, once; counters
// and nothing else end in _total; no abbreviated units.
TEST(MetricsTest, NamesPassThePrometheusLint) {
  const std::string text = Metrics("v").Render({}, true);
  std::set<std::string> helped;
  std::map<std::string, std::string> types;
  for (const std::string& line : Lines(text)) {
    std::istringstream words(line);
    std::string first;
    std::string keyword;
    std::string name;
    words >> first;
    if (first == "#") {
      std::string rest;
      words >> keyword >> name >> rest;
      EXPECT_FALSE(rest.empty()) << line;
      if (keyword == "HELP") {
        EXPECT_TRUE(helped.insert(name).second) << line;
      } else {
        ASSERT_EQ(keyword, "TYPE") << line;
        EXPECT_TRUE(types.emplace(name, rest).second) << line;
        EXPECT_TRUE(helped.contains(name)) << line;
        EXPECT_EQ(rest == "counter", name.ends_with("_total")) << line;
      }
      continue;
    }
    std::string family = first.substr(0, first.find('{'));
    EXPECT_EQ(family.find_first_not_of("abcdefghijklmnopqrstuvwxyz_"), std::string::npos) << line;
    for (const std::string suffix : {"_sum", "_count", "_bucket"}) {
      if (family.ends_with(suffix)) family.resize(family.size() - suffix.size());
    }
    EXPECT_TRUE(types.contains(family)) << line;
  }
  EXPECT_EQ(types.size(), 30u);
  EXPECT_THAT(text, Not(testing::ContainsRegex("_(ms|millis|percent|kb|mb)[_ {]")));
}

}  // namespace
}  // namespace optserve
