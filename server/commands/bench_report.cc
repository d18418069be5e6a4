#include "server/commands/bench_report.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <system_error>
#include <thread>
#include <utility>

#include "engine/planner/node.h"
#include "engine/tools/plan_inputs.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"

namespace optserve {
namespace {

absl::Status WriteText(const std::string& path, const std::string& text) {
  if (path.empty() || text.empty()) return absl::OkStatus();
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) return FailedPrecondition("{} cannot be written", path);
  return absl::OkStatus();
}

}  // namespace

bench::Roof MeasureRoof(int num_threads) {
  const NodeSpec node = MeasureCpuNode(num_threads);
  return {.bytes_per_second = node.read_bytes_per_second, .flops = node.flops_per_second};
}

std::string DescribeMachine() {
  std::ifstream file("/proc/cpuinfo");
  std::string model = "unknown CPU";
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    model = line.substr(line.find(':') + 2);
    break;
  }
  return fmt::format("{}, {} processors", model, std::thread::hardware_concurrency());
}

std::string TimeNow() { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }

absl::Status CheckOutputs(const BenchOutputs& outputs) {
  for (const std::string& path : {outputs.json, outputs.csv, outputs.html}) {
    if (!path.empty() && !std::ofstream(path, std::ios::app)) {
      return InvalidArgument("{} cannot be written: {}", path, std::generic_category().message(errno));
    }
  }
  return absl::OkStatus();
}

absl::Status WriteReports(const BenchOutputs& outputs, const ReportFiles& files) {
  OPTSERVE_RETURN_IF_ERROR(WriteText(outputs.json, files.json));
  OPTSERVE_RETURN_IF_ERROR(WriteText(outputs.csv, files.csv));
  return WriteText(outputs.html, outputs.html.empty() ? "" : bench::ReportHtml(files.html_json));
}

absl::Status PublishReport(bench::Report report, const BenchOptions& options, std::string target) {
  report.command = options.command;
  report.started = TimeNow();
  report.target = std::move(target);
  report.machine = DescribeMachine();
  fmt::print("{}", bench::ReportText(report));
  if (std::fflush(stdout) != 0) return Internal("standard output cannot be written");
  const std::string json = bench::ReportJson(report);
  return WriteReports(options.outputs, {.json = json, .csv = bench::ReportCsv(report), .html_json = json});
}

}  // namespace optserve
