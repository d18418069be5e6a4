#pragma once

#include <algorithm>
#include <string>
#include <vector>

namespace optserve {

// One line of a benchmark's report.
struct Measurement {
  std::string name;   // "fc1, 8 rows"
  double value = 0;   // median
  std::string unit;   // "us", "tokens/s"
  double ratio = 0;   // median of ratios, each to what was measured just before
  std::string of;     // what it is a ratio of: "roof", "read bandwidth"
  double target = 0;  // the least ratio that we ask for; 0: none
};

inline double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace optserve
