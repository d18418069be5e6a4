#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "server/commands/bench.h"

namespace optserve {

// The options of a benchmark under load as flags of `command`; they are read into `options`, which outlives it.
void AddBenchOptions(CLI::App& command, BenchOptions& options);

// Where a report goes beside standard output.
void AddReportFile(CLI::App& command, const char* flag, std::string& path, const char* help);

// Whom bench serve asks.
void AddBenchServer(CLI::App& command, BenchServer& server);

}  // namespace optserve
