#pragma once

namespace optserve {

struct KernelBenchOptions {
  int num_threads = 0;  // 0: every CPU of this process
  int repetitions = 9;  // of each measurement; medians are reported
  bool json = false;    // one JSON object instead of tables
};

// Measures kernels at the shapes of OPT-125M, as ratios to what the machine can do, probed between the measurements.
// Prints to stdout. Returns the exit code.
int RunKernelBench(const KernelBenchOptions& options);

}  // namespace optserve
