#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace optserve::cli {

// Counts up to and including `bound`, of a histogram.
struct Bucket {
  double bound = 0;  // +infinity for the last
  double count = 0;
};

// What /metrics says, in Prometheus' text format.
struct MetricsPage {
  std::map<std::string, double, std::less<>> values;                // without labels
  std::map<std::string, std::vector<Bucket>, std::less<>> buckets;  // by the histogram's name, by bound
  std::map<std::string, std::string, std::less<>> labels_of;        // the labels of those with labels, as written

  // InvalidArgument for a line that is none of that format.
  static absl::StatusOr<MetricsPage> Parse(std::string_view text);

  double Value(std::string_view name) const;  // 0 if it is not there
};

// The q-quantile of what was counted between two pages, interpolated within its bucket as Prometheus'
// histogram_quantile does it; nothing if nothing was counted.
std::optional<double> QuantileBetween(const MetricsPage& before, const MetricsPage& after, std::string_view histogram,
                                      double q);

}  // namespace optserve::cli
