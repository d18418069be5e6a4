#include "engine/tools/bench_kernels.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "engine/tools/probe.h"
#include "fmt/format.h"
#include "kernels/common/check.h"
#include "kernels/common/cpu_context.h"
#include "kernels/linear/linear.h"

namespace optserve {
namespace {

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Shape {
  const char* name;
  int64_t columns, depth;  // N, K
  int num_parts;
};
constexpr std::array<Shape, 5> kShapes = {{{"qkv", 768, 768, 3},
                                           {"out", 768, 768, 1},
                                           {"fc1", 3072, 768, 1},
                                           {"fc2", 768, 3072, 1},
                                           {"lm_head", 50272, 768, 1}}};

struct LinearBench {
  const CpuContext& ctx;
  MachineProbe& probe;
  std::vector<uint16_t> weights;  // f16, more than any cache holds; a call takes the next stretch of it
  size_t next = 0;
  std::vector<float> x, out;

  LinearBench(const CpuContext& context, MachineProbe& machine)
      : ctx(context), probe(machine), weights(size_t{160} << 20), x(1024 * 3072), out(1024 * 50272) {
    std::mt19937 random(1);
    for (uint16_t& w : weights) w = static_cast<uint16_t>((random() & 0x83ff) | 0x2000);
    for (float& v : x) v = static_cast<float>(random() % 1000) * 1e-3f;
  }

  // Seconds of one call, averaged over enough of them to be measured.
  double Time(const Shape& shape, int64_t rows) {
    const size_t size = static_cast<size_t>(shape.columns * shape.depth);
    const double flops = 2.0 * static_cast<double>(size) * shape.num_parts * static_cast<double>(rows);
    const int calls = std::max(1, static_cast<int>(2e9 / std::max(flops, 2.0 * static_cast<double>(size) * 8)));
    const double start = Now();
    for (int i = 0; i < calls; ++i) {
      LinearParams p;
      p.x = MakeView(x.data(), DType::kF32, rows, shape.depth);
      p.num_parts = shape.num_parts;
      for (int part = 0; part < shape.num_parts; ++part) {
        if (next + size > weights.size()) next = 0;
        p.parts[part].weight = MakeView(weights.data() + next, DType::kF16, shape.columns, shape.depth);
        p.parts[part].out = MakeView(out.data() + part * rows * shape.columns, DType::kF32, rows, shape.columns);
        next += size;
      }
      cpu::Linear(ctx, p);
    }
    return (Now() - start) / calls;
  }
};

}  // namespace

int RunKernelBench(const KernelBenchOptions& options) {
  const CpuContext ctx(DetectCpu(options.num_threads));
  MachineProbe probe(ctx);
  LinearBench bench(ctx, probe);
  std::vector<double> bandwidths, peaks;
  fmt::print("{}, {} threads\n{:8} {:>6} {:>10} {:>10} {:>10} {:>8}\n", ctx.info.name, ctx.pool.num_threads(), "linear",
             "rows", "us", "GB/s", "GFLOP/s", "of roof");
  for (const Shape& shape : kShapes) {
    for (int64_t rows : {1, 8, 32, 1024}) {
      if (rows == 1024 && shape.columns > 10000) continue;  // a prompt needs the logits of its last token only
      std::vector<double> ratios, times;
      const double bytes = 2.0 * static_cast<double>(shape.columns * shape.depth * shape.num_parts);
      const double flops = bytes * static_cast<double>(rows);
      for (int i = 0; i < options.repetitions; ++i) {
        const double bandwidth = probe.ReadBytesPerSecond();
        const double peak = probe.FlopsPerSecond();
        const double seconds = bench.Time(shape, rows);
        ratios.push_back(std::max(bytes / bandwidth, flops / peak) / seconds);
        times.push_back(seconds);
        bandwidths.push_back(bandwidth);
        peaks.push_back(peak);
      }
      const double seconds = Median(times);
      fmt::print("{:8} {:>6} {:>10.1f} {:>10.1f} {:>10.1f} {:>7.0f}%\n", shape.name, rows, seconds * 1e6,
                 bytes / seconds * 1e-9, flops / seconds * 1e-9, 100 * Median(ratios));
    }
  }
  fmt::print("read {:.1f} GB/s, f32 FMA {:.0f} GFLOP/s (medians)\n", Median(bandwidths) * 1e-9, Median(peaks) * 1e-9);
  return 0;
}

}  // namespace optserve
