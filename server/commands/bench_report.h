#pragma once

#include <string>

#include "absl/status/status.h"
#include "clients/bench/report.h"
#include "server/commands/bench.h"

// What all benchmarks do around their loads.

namespace optserve {

// What this machine can do at best, measured now with `num_threads` threads (0: all): some 0.5 s.
bench::Roof MeasureRoof(int num_threads);

// "AMD EPYC 9B45, 2 processors".
std::string DescribeMachine();

// "2026-11-29T12:00:00Z".
std::string TimeNow();

// Whether the files can be written: asked before a load, which may take hours. Makes those that are not there.
absl::Status CheckOutputs(const BenchOutputs& outputs);

// What goes into files; empty: nothing does, whatever the outputs say.
struct ReportFiles {
  std::string json = {};
  std::string csv = {};
  std::string html_json = {};  // what the page draws
};
absl::Status WriteReports(const BenchOutputs& outputs, const ReportFiles& files);

// Fills in what the session leaves open, prints the report on standard output and writes the files.
absl::Status PublishReport(bench::Report report, const BenchOptions& options, std::string target);

}  // namespace optserve
