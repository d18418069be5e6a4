#include "engine/tools/bench_linear.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>

#include "engine/tools/large_pages.h"
#include "fmt/format.h"
#include "kernels/linear/linear.h"

namespace optserve {
namespace {

struct Shape {
  const char* name;
  int64_t columns, depth;  // N, K
  int num_parts;
  int64_t bytes() const { return 2 * columns * depth * num_parts; }
};
constexpr std::array<Shape, 5> kShapes = {{{"qkv", 768, 768, 3},
                                           {"out", 768, 768, 1},
                                           {"fc1", 3072, 768, 1},
                                           {"fc2", 768, 3072, 1},
                                           {"lm_head", 50272, 768, 1}}};
constexpr int64_t kMaxLogitRows = 32;  // a prompt needs the logits of its last token only

class LinearTimer {
 public:
  explicit LinearTimer(const CpuContext& ctx)
      : ctx_(ctx), weights_(int64_t{160} << 20), x_(1024 * 3072), out_(1024 * 3072) {
    std::mt19937 random(1);
    for (uint16_t& w : weights_) w = static_cast<uint16_t>((random() & 0x87ff) | 0x2000);
    for (float& v : x_) v = static_cast<float>(random() % 1000) * 1e-3f;
  }

  // Seconds of one call, averaged over some 64 MiB of weights or 4 GFLOP, whichever is less. Every call takes the next
  // stretch of the weights.
  double Time(const Shape& shape, int64_t rows) {
    const int64_t size = shape.columns * shape.depth;
    const int64_t calls = std::max<int64_t>(1, (int64_t{64} << 20) / (shape.bytes() * std::max<int64_t>(1, rows / 16)));
    const double start = Now();
    for (int64_t i = 0; i < calls; ++i) {
      LinearParams p;
      p.x = MakeView(x_.data(), DType::kF32, rows, shape.depth);
      p.num_parts = shape.num_parts;
      for (int part = 0; part < shape.num_parts; ++part) {
        if (next_ + size > weights_.size()) next_ = 0;
        p.parts[part].weight = MakeView(weights_.data() + next_, DType::kF16, shape.columns, shape.depth);
        p.parts[part].out = MakeView(out_.data() + part * rows * shape.columns, DType::kF32, rows, shape.columns);
        next_ += size;
      }
      cpu::Linear(ctx_, p);
    }
    return (Now() - start) / static_cast<double>(calls);
  }

 private:
  const CpuContext& ctx_;
  LargePages<uint16_t> weights_;  // f16
  int64_t next_ = 0;
  std::vector<float> x_, out_;
};

}  // namespace

std::vector<Measurement> BenchLinear(const CpuContext& ctx, MachineProbe& probe, int repetitions) {
  LinearTimer timer(ctx);
  std::vector<Measurement> results;
  for (const Shape& shape : kShapes) {
    for (int64_t rows : {1, 8, 32, 1024}) {
      if (rows > kMaxLogitRows && shape.columns > 10000) continue;
      std::vector<double> ratios, times;
      for (int i = 0; i < repetitions; ++i) {
        const MachineProbe::Sample before = probe.Take();
        const double seconds = timer.Time(shape, rows);
        const MachineProbe::Sample roof = Faster(before, probe.Take());
        const auto bytes = static_cast<double>(shape.bytes());
        const double least = std::max(bytes / roof.bytes_per_second, bytes * static_cast<double>(rows) / roof.flops);
        ratios.push_back(least / seconds);
        times.push_back(seconds);
      }
      results.push_back({.name = fmt::format("{}, {} rows", shape.name, rows),
                         .value = Median(times) * 1e6,
                         .unit = "us",
                         .ratio = Median(ratios),
                         .of = "roof"});
    }
  }
  return results;
}

}  // namespace optserve
