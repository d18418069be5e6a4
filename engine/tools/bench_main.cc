#include <cstdio>

#include "engine/tools/bench_kernels.h"

// `optserve bench kernels` for a build without the front end.
int main() {
  const absl::StatusOr<optserve::KernelReport> report = optserve::MeasureKernels({});
  if (!report.ok()) {
    std::fprintf(stderr, "optserve: %s\n", report.status().ToString().c_str());
    return 1;
  }
  std::fputs(optserve::KernelReportText(*report).c_str(), stdout);
  return 0;
}
