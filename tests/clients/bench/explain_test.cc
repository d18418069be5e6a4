#include "clients/bench/explain.h"

#include <gtest/gtest.h>

namespace optserve::bench {
namespace {

std::string MetricsText(double factor) {
  std::string text = "# HELP optserve_step_phase_seconds_total Time.\n";
  for (const std::string of : {"step", "request"}) {
    const double f = of == "request" ? 2 * factor : factor;
    for (const char* phase : {"weights", "attention", "all_reduce", "kernels", "sampling", "gaps", "device", "host"}) {
      text += "optserve_" + of + "_phase_seconds_total{phase=\"" + phase + "\"} " + std::to_string(f) + "\n";
    }
    for (const char* kind : {"weight_bytes", "kv_bytes", "weight_flops", "attention_flops"}) {
      text += "optserve_" + of + "_demand_total{kind=\"" + kind + "\"} " + std::to_string(100 * f) + "\n";
    }
  }
  return text + "optserve_request_queue_seconds_sum " + std::to_string(factor) + "\noptserve_step_seconds_count " +
         std::to_string(10 * factor) + "\noptserve_request_engine_seconds_total " + std::to_string(20 * factor) +
         "\noptserve_request_serving_seconds_total " + std::to_string(30 * factor) + "\n";
}

RequestRecord Record(double seconds, int tokens) {
  RequestRecord record{.ended = seconds};
  record.token_counts.assign(static_cast<size_t>(tokens), 1);
  return record;
}

TEST(ExplainTest, CountersAreReadAndSubtracted) {
  const auto before = ReadMetrics(MetricsText(1)), after = ReadMetrics(MetricsText(3));
  ASSERT_TRUE(before.has_value() && after.has_value());
  const EngineReading reading = Since(*before, *after);
  ASSERT_EQ(reading.step.phase_seconds.size(), 8u);
  EXPECT_EQ(reading.step.phase_seconds[0].first, "weights");
  EXPECT_DOUBLE_EQ(reading.step.phase_seconds[0].second, 2);
  EXPECT_DOUBLE_EQ(reading.request.phase_seconds[7].second, 4);
  EXPECT_DOUBLE_EQ(reading.step.kv_bytes, 200);
  EXPECT_DOUBLE_EQ(reading.queue_seconds, 2);
  EXPECT_DOUBLE_EQ(reading.steps, 20);
  EXPECT_DOUBLE_EQ(reading.engine_seconds, 40);
  EXPECT_DOUBLE_EQ(reading.serving_seconds, 60);
  EXPECT_FALSE(ReadMetrics("vllm:num_requests_running 1\n").has_value());
}

// Ten requests of one second and two tokens, each sent 0.01 s late, of which the client itself takes 0.02 s: 10 s by 20
// tokens. The server has them for 9.5 s, its engine for 9 s: 1 s of queue and eight phases of 1 s.
std::vector<RequestRecord> TenRequests() {
  std::vector<RequestRecord> records(10, Record(1.0, 2));
  for (RequestRecord& record : records) {
    record.sent = 0.01;
    record.own_seconds = 0.02;
  }
  return records;
}

EngineReading ReadingOfTen() {
  EngineReading reading{.queue_seconds = 1.0, .engine_seconds = 9.0, .serving_seconds = 9.5};
  for (const char* phase : {"weights", "attention", "a", "b", "c", "d", "e", "f"}) {
    reading.request.phase_seconds.emplace_back(phase, 1.0);
  }
  return reading;
}

double SecondsOf(const Explanation& e, std::string_view name) {
  for (const Part& part : e.parts) {
    if (part.name == name) return part.seconds * static_cast<double>(e.tokens);
  }
  ADD_FAILURE() << "no part " << name;
  return 0;
}

TEST(ExplainTest, PartsAreSharesOfTheLatencies) {
  EngineReading reading = ReadingOfTen();
  reading.request.weight_bytes = 50;
  reading.request.weight_flops = 5;
  const Explanation e = Explain(reading, TenRequests(), {.bytes_per_second = 100, .flops = 100});
  EXPECT_DOUBLE_EQ(e.seconds_per_token, 0.5);
  EXPECT_DOUBLE_EQ(e.parts.at(0).seconds, 0.05);
  EXPECT_DOUBLE_EQ(e.parts.at(0).least, 0.5 / 20) << "reading takes longer than multiplying";
  EXPECT_NEAR(SecondsOf(e, "client"), 0.3, 1e-9);
  EXPECT_NEAR(SecondsOf(e, "wire"), 0.2, 1e-9) << "10 s beside the client's and the server's";
  EXPECT_NEAR(SecondsOf(e, "front_end"), 0.5, 1e-9);
  EXPECT_NEAR(e.explained, 1.0, 1e-9);
  EXPECT_NEAR(e.least, 0.05, 1e-9);
  EXPECT_EQ(e.tokens, 20);
}

// Nothing fills up what an engine forgets to count, or counts twice.
TEST(ExplainTest, AForgottenPhaseIsMissingInTheSum) {
  EngineReading reading = ReadingOfTen();
  reading.request.phase_seconds.pop_back();
  EXPECT_NEAR(Explain(reading, TenRequests(), {}).explained, 0.9, 1e-9);
  reading = ReadingOfTen();
  reading.queue_seconds = 2.0;
  EXPECT_NEAR(Explain(reading, TenRequests(), {}).explained, 1.1, 1e-9);
}

TEST(ExplainTest, StepsAreReadOneByOne) {
  const std::vector<EngineStep> steps = ReadSteps(R"({"steps":[
      {"step":4,"replica":1,"begin_ns":2000000000,"tokens":12,"sequences":3,
       "phase_ns":{"weights":700000,"attention":200000,"all_reduce":0,"kernels":0,"sampling":0,"gaps":0,"device":0,
       "host":100000},"weight_bytes":10,"kv_bytes":11,"weight_flops":12,"attention_flops":13}]})");
  ASSERT_EQ(steps.size(), 1u);
  EXPECT_DOUBLE_EQ(steps[0].begin, 2.0);
  EXPECT_EQ(steps[0].tokens, 12);
  EXPECT_EQ(steps[0].sequences, 3);
  EXPECT_NEAR(steps[0].seconds(), 1e-3, 1e-12);
  EXPECT_EQ(steps[0].account.phase_seconds[1].first, "attention");
  EXPECT_DOUBLE_EQ(steps[0].account.kv_bytes, 11);
  EXPECT_TRUE(ReadSteps("<html>").empty());
  EXPECT_TRUE(ReadSteps(R"({"steps":[{"step":4}]})").empty());
}

TEST(ExplainTest, AClientThatSendsLateOrIsBusyIsNamed) {
  LoadResult idle{.cpu_seconds = 0.0, .wall_seconds = 10.0};
  Summary summary;
  summary.latencies.end_to_end = {0.1};
  summary.late_p99 = 0.001;
  EXPECT_TRUE(ClientLimits(idle, summary, /*in_process=*/false, /*is_open=*/true).empty());
  summary.late_p99 = 0.05;
  EXPECT_EQ(ClientLimits(idle, summary, false, true).size(), 1u);
  EXPECT_TRUE(ClientLimits(idle, summary, false, /*is_open=*/false).empty());
  const LoadResult busy{.cpu_seconds = 1e6, .wall_seconds = 10.0};
  EXPECT_EQ(ClientLimits(busy, summary, false, false).size(), 1u);
  EXPECT_TRUE(ClientLimits(busy, summary, /*in_process=*/true, false).empty());
}

}  // namespace
}  // namespace optserve::bench
