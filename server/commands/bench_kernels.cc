#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "clients/bench/report.h"
#include "engine/tools/bench_kernels.h"
#include "engine/util/status.h"
#include "engine/util/status_macros.h"
#include "server/commands/bench.h"
#include "server/commands/bench_report.h"
#include "server/commands/failure.h"

namespace optserve {
namespace {

absl::Status Run(const KernelBenchOptions& kernels, bool print_json, const BenchOptions& options) {
  OPTSERVE_RETURN_IF_ERROR(CheckOutputs(options.outputs));
  OPTSERVE_ASSIGN_OR_RETURN(const KernelReport report, MeasureKernels(kernels));
  const std::string json = KernelReportJson(report);
  std::fputs(print_json ? json.c_str() : KernelReportText(report).c_str(), stdout);
  if (std::fflush(stdout) != 0) return Internal("standard output cannot be written");
  nlohmann::json page = nlohmann::json::parse(json);
  page["format"] = "optserve-bench-kernels-1";
  page["command"] = options.command;
  page["started"] = TimeNow();
  return WriteReports(options.outputs, {.csv = KernelReportCsv(report), .html_json = page.dump(1)});
}

}  // namespace

int BenchKernels(const KernelBenchOptions& kernels, bool print_json, const BenchOptions& options) {
  const absl::Status status = Run(kernels, print_json, options);
  return status.ok() ? kExitOk : Fail(status);
}

}  // namespace optserve
