#include "clients/cpp/cli/metrics_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

namespace optserve::cli {
namespace {

constexpr std::string_view kBucket = "_bucket";

std::optional<double> ReadNumber(std::string_view text) {
  if (text == "+Inf") return std::numeric_limits<double>::infinity();
  if (text == "-Inf") return -std::numeric_limits<double>::infinity();
  if (text == "NaN" || text == "Nan") return std::numeric_limits<double>::quiet_NaN();
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// The bound in `le="..."`.
std::optional<double> BoundIn(std::string_view labels) {
  constexpr std::string_view kLe = "le=\"";
  const size_t begin = labels.find(kLe);
  if (begin == std::string_view::npos) return std::nullopt;
  labels.remove_prefix(begin + kLe.size());
  return ReadNumber(labels.substr(0, labels.find('"')));
}

// NAME VALUE, or NAME{LABELS} VALUE. A time behind them is not what our servers write.
bool ReadLine(std::string_view line, MetricsPage& page) {
  const size_t space = line.rfind(' ');
  if (space == std::string_view::npos || space == 0) return false;
  const std::optional<double> value = ReadNumber(line.substr(space + 1));
  if (!value) return false;
  std::string_view name = line.substr(0, space);
  const size_t brace = name.find('{');
  if (brace == std::string_view::npos) {
    page.values[std::string(name)] = *value;
    return true;
  }
  if (!name.ends_with('}')) return false;
  const std::string_view labels = name.substr(brace + 1, name.size() - brace - 2);
  name = name.substr(0, brace);
  if (!name.ends_with(kBucket)) {
    page.labels_of[std::string(name)] = labels;
    return true;
  }
  const std::optional<double> bound = BoundIn(labels);
  if (!bound || std::isnan(*bound)) return false;  // NaN has no place in an order
  name.remove_suffix(kBucket.size());
  page.buckets[std::string(name)].push_back({.bound = *bound, .count = *value});
  return true;
}

}  // namespace

absl::StatusOr<MetricsPage> MetricsPage::Parse(std::string_view text) {
  MetricsPage page;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line.starts_with('#')) continue;
    if (!ReadLine(line, page)) return absl::InvalidArgumentError(fmt::format("line {} is no metric: {}", number, line));
  }
  for (auto& [name, buckets] : page.buckets) {
    std::sort(buckets.begin(), buckets.end(), [](const Bucket& a, const Bucket& b) { return a.bound < b.bound; });
  }
  return page;
}

double MetricsPage::Value(std::string_view name) const {
  const auto found = values.find(name);
  return found == values.end() ? 0 : found->second;
}

std::optional<double> QuantileBetween(const MetricsPage& before, const MetricsPage& after, std::string_view histogram,
                                      double q) {
  const auto found = after.buckets.find(histogram);
  if (found == after.buckets.end() || found->second.empty()) return std::nullopt;
  std::vector<Bucket> counted = found->second;
  if (const auto old = before.buckets.find(histogram); old != before.buckets.end()) {
    if (old->second.size() != counted.size()) return std::nullopt;
    for (size_t i = 0; i < counted.size(); ++i) counted[i].count -= old->second[i].count;
  }
  const double total = counted.back().count;
  if (!(total > 0) || std::isinf(total)) return std::nullopt;
  const double rank = q * total;
  const auto at =
      std::find_if(counted.begin(), counted.end(), [&](const Bucket& bucket) { return bucket.count >= rank; });
  const Bucket below = at == counted.begin() ? Bucket{} : *(at - 1);
  if (std::isinf(at->bound)) return below.bound;
  if (at->count == below.count) return at->bound;
  return below.bound + (at->bound - below.bound) * (rank - below.count) / (at->count - below.count);
}

}  // namespace optserve::cli
