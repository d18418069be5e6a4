#include "engine/tools/bench_kernels.h"

#include <cstdio>
#include <string>
#include <vector>

#include "engine/tools/bench_linear.h"
#include "engine/tools/bench_model.h"
#include "engine/tools/measurement.h"
#include "engine/tools/probe.h"
#include "fmt/format.h"
#include "kernels/common/cpu_context.h"
#include "nlohmann/json.hpp"

namespace optserve {
namespace {

constexpr const char* kIsaNames[] = {"portable", "avx2", "avx512"};

// "73%" for a part of something, "5.8x" for a multiple.
std::string Ratio(double ratio, const std::string& of) {
  return of.starts_with("batch") ? fmt::format("{:.1f}x", ratio) : fmt::format("{:.0f}%", 100 * ratio);
}

void Print(const char* title, const std::vector<Measurement>& measurements) {
  fmt::print("\n{}\n", title);
  for (const Measurement& m : measurements) {
    fmt::print("  {:18} {:>9.{}f} {:8} {:>5} of {}", m.name, m.value, m.value < 100 ? 1 : 0, m.unit,
               Ratio(m.ratio, m.of), m.of);
    if (m.target > 0) {
      fmt::print(" ({}: at least {})", m.ratio >= m.target ? "good" : "short", Ratio(m.target, m.of));
    }
    fmt::print("\n");
  }
}

nlohmann::json ToJson(const std::vector<Measurement>& measurements) {
  nlohmann::json list = nlohmann::json::array();
  for (const Measurement& m : measurements) {
    nlohmann::json entry = {{"name", m.name}, {"value", m.value}, {"unit", m.unit}, {"ratio", m.ratio}, {"of", m.of}};
    if (m.target > 0) entry["target"] = m.target;
    list.push_back(std::move(entry));
  }
  return list;
}

}  // namespace

int RunKernelBench(const KernelBenchOptions& options) {
  const CpuContext ctx(DetectCpu(options.num_threads));
  MachineProbe probe(ctx);
  const MachineProbe::Sample roof = probe.Best();
  const std::vector<Measurement> linear = BenchLinear(ctx, probe, options.repetitions);
  const absl::StatusOr<std::vector<Measurement>> model = BenchModel(probe, options.num_threads, options.repetitions);
  if (!model.ok()) {
    fmt::print(stderr, "optserve: {}\n",
               std::string_view(model.status().message().data(), model.status().message().size()));
    return 1;
  }
  const char* isa = kIsaNames[static_cast<int>(ctx.info.isa)];
  if (options.json) {
    const nlohmann::json report = {{"cpu", ctx.info.name},
                                   {"threads", ctx.info.num_threads},
                                   {"isa", isa},
                                   {"read_bytes_per_second", roof.bytes_per_second},
                                   {"flops", roof.flops},
                                   {"linear", ToJson(linear)},
                                   {"model", ToJson(*model)}};
    fmt::print("{}\n", report.dump(2));
    return 0;
  }
  fmt::print("{}, {} threads, {}: reads {:.1f} GB/s, {:.0f} GFLOP/s of f32 multiply-adds\n", ctx.info.name,
             ctx.info.num_threads, isa, roof.bytes_per_second * 1e-9, roof.flops * 1e-9);
  Print("Linear, f16 weights of OPT-125M", linear);
  Print("OPT-125M, f16 weights, whole steps", *model);
  return 0;
}

}  // namespace optserve
