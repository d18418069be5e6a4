#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/bench/statistics.h"

namespace optserve::bench {

struct ComparedMetric {
  std::string run;   // its name in both reports
  std::string name;  // "TTFT p50"
  double a = 0.0;
  double b = 0.0;
  Ratio ratio;  // b / a
};

// Compares the runs that two reports of bench have in common, by name; reports of one run each are compared whatever
// the names. InvalidArgument: a text is no report, or there is nothing in common.
absl::StatusOr<std::vector<ComparedMetric>> CompareReports(const std::string& json_a, const std::string& json_b);

std::string CompareText(const std::vector<ComparedMetric>& metrics);
std::string CompareJson(const std::vector<ComparedMetric>& metrics);

}  // namespace optserve::bench
