#include "clients/bench/compare.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <numeric>
#include <span>
#include <utility>

namespace optserve::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kReplicas = 1000;
constexpr uint64_t kSeed = 1;

double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}
double P50(std::span<const double> values) { return Quantile(values, 0.5); }
double P99(std::span<const double> values) { return Quantile(values, 0.99); }

struct MetricKind {
  const char* samples;
  const char* name;
  double (*statistic)(std::span<const double>);
};
constexpr MetricKind kMetrics[] = {
    {"ttft_ms", "TTFT p50 ms", P50}, {"ttft_ms", "TTFT p99 ms", P99},
    {"itl_ms", "ITL p50 ms", P50},   {"itl_ms", "ITL p99 ms", P99},
    {"tpot_ms", "TPOT p50 ms", P50}, {"e2e_ms", "E2E p50 ms", P50},
    {"e2e_ms", "E2E p99 ms", P99},   {"tokens_per_second", "output tokens/s", Mean},
};

absl::StatusOr<Json> ParseReport(const std::string& text, std::string_view which) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.value("format", "") != "optserve-bench-1" || !json.contains("runs")) {
    return absl::InvalidArgumentError(fmt::format("the {} file is no JSON report of optserve bench", which));
  }
  return json;
}

const Json* FindRun(const Json& report, const Json& like, bool by_name) {
  for (const Json& run : report["runs"]) {
    if (!by_name || run["name"] == like["name"]) return &run;
  }
  return nullptr;
}

void CompareRuns(const Json& a, const Json& b, std::vector<ComparedMetric>& metrics) {
  for (const MetricKind& kind : kMetrics) {
    const auto values_a = a["samples"][kind.samples].get<std::vector<double>>();
    const auto values_b = b["samples"][kind.samples].get<std::vector<double>>();
    if (values_a.empty() || values_b.empty()) continue;
    metrics.push_back({.run = a["name"],
                       .name = kind.name,
                       .a = kind.statistic(values_a),
                       .b = kind.statistic(values_b),
                       .ratio = BootstrapRatio(values_a, values_b, kind.statistic, kReplicas, kSeed)});
  }
}

}  // namespace

absl::StatusOr<std::vector<ComparedMetric>> CompareReports(const std::string& json_a, const std::string& json_b) {
  const absl::StatusOr<Json> a = ParseReport(json_a, "first");
  if (!a.ok()) return a.status();
  const absl::StatusOr<Json> b = ParseReport(json_b, "second");
  if (!b.ok()) return b.status();
  const bool by_name = (*a)["runs"].size() != 1 || (*b)["runs"].size() != 1;
  std::vector<ComparedMetric> metrics;
  try {
    for (const Json& run : (*a)["runs"]) {
      if (const Json* other = FindRun(*b, run, by_name); other != nullptr) CompareRuns(run, *other, metrics);
    }
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(fmt::format("a report is not whole: {}", error.what()));
  }
  if (metrics.empty()) return absl::InvalidArgumentError("the two reports have no run in common");
  return metrics;
}

std::string CompareText(const std::vector<ComparedMetric>& metrics) {
  std::string text;
  std::string run;
  for (const ComparedMetric& m : metrics) {
    if (m.run != run) {
      run = m.run;
      text += fmt::format("{}\n  {:<16} {:>12} {:>12} {:>8}   95 % of replicas\n", run, "", "A", "B", "B / A");
    }
    const bool differs = m.ratio.low > 1 || m.ratio.high < 1;
    text += fmt::format("  {:<16} {:>12.3f} {:>12.3f} {:>8.3f}   {:.3f} to {:.3f}{}\n", m.name, m.a, m.b, m.ratio.value,
                        m.ratio.low, m.ratio.high, differs ? "" : "   (1 is among them)");
  }
  return text;
}

std::string CompareJson(const std::vector<ComparedMetric>& metrics) {
  Json list = Json::array();
  for (const ComparedMetric& m : metrics) {
    list.push_back({{"run", m.run},
                    {"metric", m.name},
                    {"a", m.a},
                    {"b", m.b},
                    {"ratio", m.ratio.value},
                    {"low", m.ratio.low},
                    {"high", m.ratio.high}});
  }
  return Json({{"metrics", list}}).dump(1) + "\n";
}

}  // namespace optserve::bench
