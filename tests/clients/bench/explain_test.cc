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
         std::to_string(10 * factor) + "\n";
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
  EXPECT_FALSE(ReadMetrics("vllm:num_requests_running 1\n").has_value());
}

// Ten requests of one second and two tokens: 10 s by 20 tokens. Eight phases of 1 s, 1 s of queue, 0.05 s each on the
// wire and 0.02 s of the client: 9.7 s.
TEST(ExplainTest, PartsAreSharesOfTheLatencies) {
  EngineReading reading;
  for (const char* phase : {"weights", "attention", "a", "b", "c", "d", "e", "f"}) {
    reading.request.phase_seconds.emplace_back(phase, 1.0);
  }
  reading.queue_seconds = 1.0;
  reading.request.weight_bytes = 50;
  reading.request.weight_flops = 5;
  const std::vector<RequestRecord> records(10, Record(1.0, 2));
  const Explanation e = Explain(reading, records, {.bytes_per_second = 100, .flops = 100},
                                {.wire_seconds = 0.05, .client_seconds = 0.02});
  EXPECT_DOUBLE_EQ(e.seconds_per_token, 0.5);
  EXPECT_DOUBLE_EQ(e.parts.at(0).seconds, 0.05);
  EXPECT_DOUBLE_EQ(e.parts.at(0).least, 0.5 / 20) << "reading takes longer than multiplying";
  EXPECT_NEAR(e.explained, 0.97, 1e-9);
  EXPECT_NEAR(e.least, 0.05, 1e-9);
  EXPECT_EQ(e.tokens, 20);
}

// A phase that an engine forgets to count leaves a hole that the sum shows.
TEST(ExplainTest, AForgottenPhaseIsMissingInTheSum) {
  EngineReading reading;
  reading.request.phase_seconds = {{"weights", 6.0}};
  const std::vector<RequestRecord> records(10, Record(1.0, 2));
  EXPECT_NEAR(Explain(reading, records, {}, {}).explained, 0.6, 1e-9);
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
