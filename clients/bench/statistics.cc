#include "clients/bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace optserve::bench {
namespace {

double QuantileOfSorted(std::span<const double> sorted, double q) {
  if (sorted.empty()) return 0.0;
  const double place = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(std::floor(place));
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double part = place - static_cast<double>(below);
  return sorted[below] + part * (sorted[above] - sorted[below]);
}

}  // namespace

double Quantile(std::span<const double> values, double q) {
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  return QuantileOfSorted(sorted, q);
}

Distribution Describe(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  return {.count = static_cast<int64_t>(values.size()),
          .mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()),
          .min = values.front(),
          .p50 = QuantileOfSorted(values, 0.50),
          .p90 = QuantileOfSorted(values, 0.90),
          .p99 = QuantileOfSorted(values, 0.99),
          .max = values.back()};
}

Ratio BootstrapRatio(std::span<const double> a, std::span<const double> b,
                     const std::function<double(std::span<const double>)>& statistic, int replicas, uint64_t seed) {
  if (a.empty() || b.empty()) return {};
  const double base = statistic(a);
  if (base == 0.0) return {};
  std::mt19937_64 random(seed);
  std::vector<double> drawn;
  const auto draw = [&](std::span<const double> from) {
    std::uniform_int_distribution<size_t> index(0, from.size() - 1);
    drawn.resize(from.size());
    for (double& value : drawn) value = from[index(random)];
    return statistic(drawn);
  };
  std::vector<double> ratios;
  for (int i = 0; i < replicas; ++i) {
    const double below = draw(a);
    const double above = draw(b);
    if (below != 0.0) ratios.push_back(above / below);
  }
  return {.value = statistic(b) / base, .low = Quantile(ratios, 0.025), .high = Quantile(ratios, 0.975)};
}

}  // namespace optserve::bench
