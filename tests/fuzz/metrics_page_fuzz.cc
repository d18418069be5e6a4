// What a server's /metrics, /debug/steps and their like say to `optserve-cli watch` and `optserve bench`: two pages,
// NUL between. What is read is sorted and in bounds; what is not is an error that names the line.

#include <cmath>

#include "clients/bench/explain.h"
#include "clients/cpp/cli/metrics_page.h"
#include "tests/fuzz/fuzz.h"

using namespace optserve;

namespace {

void CheckPage(const cli::MetricsPage& page) {
  for (const auto& [name, buckets] : page.buckets) {
    FUZZ_CHECK(!buckets.empty());
    for (size_t i = 0; i < buckets.size(); ++i) {
      FUZZ_CHECK(!std::isnan(buckets[i].bound));
      FUZZ_CHECK(i == 0 || buckets[i - 1].bound <= buckets[i].bound);
    }
  }
}

void CheckQuantiles(const cli::MetricsPage& before, const cli::MetricsPage& after) {
  for (const auto& [name, buckets] : after.buckets) {
    for (const double q : {0.0, 0.5, 0.99, 1.0}) {
      const std::optional<double> quantile = cli::QuantileBetween(before, after, name, q);
      if (quantile) FUZZ_CHECK(!std::isnan(*quantile));
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input = fuzz::Text(data, size);
  const std::string_view first = fuzz::TakePart(input);
  const absl::StatusOr<cli::MetricsPage> before = cli::MetricsPage::Parse(first);
  const absl::StatusOr<cli::MetricsPage> after = cli::MetricsPage::Parse(input);
  for (const auto* page : {&before, &after}) {
    if (page->ok()) CheckPage(**page);
    if (!page->ok()) FUZZ_CHECK(fuzz::Message(page->status()).find('\n') == std::string::npos);
  }
  if (before.ok() && after.ok()) CheckQuantiles(*before, *after);

  const std::optional<bench::EngineReading> earlier = bench::ReadMetrics(first);
  const std::optional<bench::EngineReading> later = bench::ReadMetrics(input);
  if (earlier && later) {
    const std::vector<bench::RequestRecord> records(1);
    (void)bench::Explain(bench::Since(*earlier, *later), records, {});
  }
  for (const bench::EngineStep& step : bench::ReadSteps(input)) (void)step.seconds();
  return 0;
}
