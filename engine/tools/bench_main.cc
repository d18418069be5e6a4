#include "engine/tools/bench_kernels.h"

// `optserve bench kernels` for a build without the front end.
int main() { return optserve::RunKernelBench({}); }
