#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace optserve::bench {

// The value below which a part `q` (0 to 1) of the values lies, between two of them by a straight line, as numpy's
// default. 0 without values.
double Quantile(std::span<const double> values, double q);

struct Distribution {
  int64_t count = 0;
  double mean = 0.0;
  double min = 0.0;
  double p50 = 0.0;
  double p90 = 0.0;
  double p99 = 0.0;
  double max = 0.0;
};
Distribution Describe(std::vector<double> values);

// A ratio, and the interval that holds 95 of 100 of its bootstrap replicas.
struct Ratio {
  double value = 0.0;
  double low = 0.0;
  double high = 0.0;
};

// statistic(b) / statistic(a), where the values of each are drawn again with replacement, `replicas` times. The same
// seed gives the same interval. 0 where one of them is empty or statistic(a) is 0. (Efron 1979.)
Ratio BootstrapRatio(std::span<const double> a, std::span<const double> b,
                     const std::function<double(std::span<const double>)>& statistic, int replicas, uint64_t seed);

}  // namespace optserve::bench
