#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tools/measurement.h"

namespace optserve {

struct KernelBenchOptions {
  int num_threads = 0;  // 0: every CPU of this process
  int repetitions = 9;  // of each measurement; medians are reported
};

struct KernelReport {
  std::string cpu;
  int num_threads = 0;
  std::string isa;  // "avx512"
  double read_bytes_per_second = 0.0;
  double flops = 0.0;               // f32 multiply-adds, 2 each
  std::vector<Measurement> linear;  // products with OPT-125M's weights
  std::vector<Measurement> model;   // whole steps of OPT-125M
};

// Measures kernels at the shapes of OPT-125M, as ratios to what the machine can do, probed between the measurements.
absl::StatusOr<KernelReport> MeasureKernels(const KernelBenchOptions& options);

std::string KernelReportText(const KernelReport& report);

// The keys of the report, all of it.
std::string KernelReportJson(const KernelReport& report);

// A line for each measurement.
std::string KernelReportCsv(const KernelReport& report);

}  // namespace optserve
