#pragma once

#include <optional>
#include <string>
#include <vector>

#include "clients/bench/explain.h"
#include "clients/bench/load.h"
#include "clients/bench/summary.h"
#include "clients/bench/workload.h"

namespace optserve::bench {

// One load and what it showed.
struct Run {
  std::string name;           // "closed loop, 4 at a time", "12.5 requests/s, Poisson"
  double offered_rate = 0.0;  // requests per second; 0: closed loop
  int32_t max_in_flight = 1;
  int64_t warm_up = 0;
  Summary summary;
  std::optional<Explanation> explanation;  // of targets that keep an account of their steps
  std::vector<std::string> client_limits;  // why the run says more of the client; empty: it does not
  std::vector<RequestRecord> records;      // the warm-up's too
};

struct Report {
  std::string command;  // "optserve bench offline ..."
  std::string started;  // ISO 8601, UTC
  std::string target;   // what was measured
  std::string machine;  // where the benchmark ran
  WorkloadOptions workload;
  Limits limits;
  Roof roof;
  std::vector<Run> runs;
  int knee = -1;  // of a sweep: index into runs
  bool is_sweep = false;
};

// For people.
std::string ReportText(const Report& report);

// Everything but the prompts: summaries, explanations, and the latencies themselves (in milliseconds, of the gaps
// between tokens at most 20,000 evenly chosen), which bench compare draws from.
std::string ReportJson(const Report& report);

// A line for each request, the warm-up's too.
std::string ReportCsv(const Report& report);

// One page that needs nothing else: the JSON, and the code that draws it.
std::string ReportHtml(const std::string& json);

}  // namespace optserve::bench
