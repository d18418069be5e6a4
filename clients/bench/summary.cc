#include "clients/bench/summary.h"

#include <algorithm>

namespace optserve::bench {
namespace {

// As the server counted them, else as they came.
int64_t OutputTokens(const RequestRecord& record) {
  return record.outcome.output_tokens > 0 ? record.outcome.output_tokens : record.num_tokens();
}

double TimePerOutputToken(const RequestRecord& record) {
  if (record.token_counts.empty()) return 0.0;
  const int64_t tokens = OutputTokens(record);
  if (tokens < 2) return 0.0;
  // The first arrival may hold several tokens; the time after it is that of the others.
  const int64_t after_first = tokens - record.token_counts.front();
  if (after_first < 1) return 0.0;
  return (record.token_times.back() - record.token_times.front()) / static_cast<double>(after_first);
}

void Add(const RequestRecord& record, Latencies& latencies) {
  latencies.end_to_end.push_back(record.ended - record.due);
  if (record.token_times.empty()) return;
  latencies.time_to_first_token.push_back(record.token_times.front() - record.due);
  for (size_t i = 1; i < record.token_times.size(); ++i) {
    latencies.inter_token.push_back(record.token_times[i] - record.token_times[i - 1]);
  }
  if (record.token_times.size() > 1) latencies.time_per_output_token.push_back(TimePerOutputToken(record));
}

void CountTokens(const RequestRecord& record, Summary& summary) {
  const int64_t came = record.num_tokens();
  const int64_t counted = record.outcome.output_tokens;
  summary.prompt_tokens += record.outcome.prompt_tokens;
  summary.output_tokens += OutputTokens(record);
  if (counted == 0) {
    ++summary.counted_by_chunks;
  } else if (counted != came) {
    ++summary.counted_by_usage;
  } else {
    ++summary.counted_exactly;
  }
  summary.merged_arrivals += std::ranges::count_if(record.token_counts, [](int32_t count) { return count > 1; });
}

std::vector<double> TokensPerSecond(std::span<const RequestRecord> records, double begin, double seconds) {
  constexpr int kParts = 20;
  std::vector<double> rates(kParts, 0.0);
  if (seconds <= 0) return rates;
  for (const RequestRecord& record : records) {
    for (size_t i = 0; i < record.token_times.size(); ++i) {
      const auto part = static_cast<int>((record.token_times[i] - begin) / seconds * kParts);
      if (part >= 0 && part <= kParts) rates[std::min(part, kParts - 1)] += record.token_counts[i] * kParts / seconds;
    }
  }
  return rates;
}

}  // namespace

bool IsGood(const RequestRecord& record, const Limits& limits) {
  if (!record.outcome.error.empty() || record.token_times.empty()) return false;
  const auto within = [](double value, double limit) { return limit <= 0 || value <= limit; };
  return within(record.token_times.front() - record.due, limits.time_to_first_token) &&
         within(TimePerOutputToken(record), limits.time_per_output_token) &&
         within(record.ended - record.due, limits.end_to_end);
}

Summary Summarize(std::span<const RequestRecord> records, int64_t warm_up, const Limits& limits) {
  Summary summary;
  records = records.subspan(static_cast<size_t>(std::min<int64_t>(warm_up, std::ssize(records))));
  if (records.empty()) return summary;
  double begin = records.front().due;
  double end = 0.0;
  int64_t good = 0;
  std::vector<double> late;
  for (const RequestRecord& record : records) {
    begin = std::min(begin, record.due);
    end = std::max(end, record.ended);
    late.push_back(record.sent - record.due);
    good += IsGood(record, limits) ? 1 : 0;
    if (!record.outcome.error.empty()) {
      ++summary.errors[record.outcome.error];
      if (record.outcome.in_stream) ++summary.errors_in_stream[record.outcome.error];
      continue;
    }
    ++summary.answered;
    CountTokens(record, summary);
    Add(record, summary.latencies);
    if (!record.kind.empty()) Add(record, summary.by_kind[record.kind]);
  }
  summary.requests = std::ssize(records);
  summary.seconds = end - begin;
  const auto rate = [&](int64_t count) {
    return summary.seconds > 0 ? static_cast<double>(count) / summary.seconds : 0;
  };
  summary.requests_per_second = rate(summary.answered);
  summary.output_tokens_per_second = rate(summary.output_tokens);
  summary.total_tokens_per_second = rate(summary.prompt_tokens + summary.output_tokens);
  summary.has_limits = limits.any();
  summary.good_share = static_cast<double>(good) / static_cast<double>(summary.requests);
  summary.goodput = rate(good);
  summary.late_p99 = Quantile(late, 0.99);
  summary.tokens_per_second = TokensPerSecond(records, begin, summary.seconds);
  return summary;
}

int KneeOf(std::span<const SweepPoint> points, bool has_limits) {
  int knee = -1;
  for (int i = 0; i < std::ssize(points); ++i) {
    const SweepPoint& point = points[i];
    const bool keeps_up = point.achieved >= 0.95 * point.offered;
    const bool is_quick = has_limits ? point.good_share >= 0.9 : point.end_to_end_p50 <= 2 * points[0].end_to_end_p50;
    if (keeps_up && is_quick) knee = i;
  }
  return knee;
}

}  // namespace optserve::bench
