#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "clients/bench/load.h"
#include "clients/bench/statistics.h"

namespace optserve::bench {

// What a user asks of an answer, in seconds; 0: nothing.
struct Limits {
  double time_to_first_token = 0.0;
  double time_per_output_token = 0.0;
  double end_to_end = 0.0;

  bool any() const { return time_to_first_token > 0 || time_per_output_token > 0 || end_to_end > 0; }
};

// Latencies in seconds of answers that came whole, counted from when each was due.
struct Latencies {
  std::vector<double> time_to_first_token;
  std::vector<double> inter_token;  // every gap between two arrivals, of all answers
  std::vector<double>
      time_per_output_token;  // of an answer: from its first to its last token, by tokens after the first
  std::vector<double> end_to_end;
};

// What a load has shown. Requests of the warm-up count nowhere here.
struct Summary {
  int64_t requests = 0;
  int64_t answered = 0;                             // whole
  std::map<std::string, int64_t> errors;            // by class
  std::map<std::string, int64_t> errors_in_stream;  // of those, after tokens had come
  int64_t prompt_tokens = 0;                        // of whole answers, as the server counted them, else as they came
  int64_t output_tokens = 0;
  // Whole answers by what their tokens were counted by: each token came by itself, or with its ids, and `usage` agrees;
  // by `usage`, because texts came that are not a token each (gaps are then between texts); or, where a server gives no
  // `usage`, by the texts that came, whatever tokens those are.
  int64_t counted_exactly = 0;
  int64_t counted_by_usage = 0;
  int64_t counted_by_chunks = 0;
  int64_t merged_arrivals = 0;  // arrivals of several tokens at once: gaps between those tokens were not seen
  double seconds = 0.0;         // from the first request due to the last end
  double requests_per_second = 0.0;
  double output_tokens_per_second = 0.0;
  double total_tokens_per_second = 0.0;
  bool has_limits = false;
  double good_share = 0.0;  // of all requests: answered within the limits
  double goodput = 0.0;     // those per second
  double late_p99 = 0.0;    // between due and sent, seconds
  Latencies latencies;
  std::map<std::string, Latencies> by_kind;  // of workloads of several kinds
  std::vector<double> tokens_per_second;     // in twenty equal parts of the time
};

// The first `warm_up` requests are left out.
Summary Summarize(std::span<const RequestRecord> records, int64_t warm_up, const Limits& limits);

bool IsGood(const RequestRecord& record, const Limits& limits);

// One load of a sweep, as the choice of the knee sees it.
struct SweepPoint {
  double offered = 0.0;   // requests per second
  double achieved = 0.0;  // answered per second
  double end_to_end_p50 = 0.0;
  double good_share = 1.0;
};

// The index of the highest load that the server still bears: it answers at least 95 % of what is offered and, with
// limits, nine of ten requests within them; without, its median latency is at most twice that of the lowest load. -1:
// none does. `points` ascend by offered.
int KneeOf(std::span<const SweepPoint> points, bool has_limits);

}  // namespace optserve::bench
