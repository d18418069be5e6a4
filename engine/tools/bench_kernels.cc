#include "engine/tools/bench_kernels.h"

#include <string>
#include <vector>

#include "engine/tools/bench_linear.h"
#include "engine/tools/bench_model.h"
#include "engine/tools/measurement.h"
#include "engine/tools/probe.h"
#include "engine/util/status_macros.h"
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

void Add(std::string& text, const char* title, const std::vector<Measurement>& measurements) {
  text += fmt::format("\n{}\n", title);
  for (const Measurement& m : measurements) {
    text += fmt::format("  {:18} {:>9.{}f} {:8} {:>5} of {}", m.name, m.value, m.value < 100 ? 1 : 0, m.unit,
                        Ratio(m.ratio, m.of), m.of);
    if (m.target > 0) {
      text += fmt::format(" ({}: at least {})", m.ratio >= m.target ? "good" : "short", Ratio(m.target, m.of));
    }
    text += "\n";
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

absl::StatusOr<KernelReport> MeasureKernels(const KernelBenchOptions& options) {
  const CpuContext ctx(DetectCpu(options.num_threads));
  MachineProbe probe(ctx);
  const MachineProbe::Sample roof = probe.Best();
  KernelReport report{.cpu = ctx.info.name,
                      .num_threads = ctx.info.num_threads,
                      .isa = kIsaNames[static_cast<int>(ctx.info.isa)],
                      .read_bytes_per_second = roof.bytes_per_second,
                      .flops = roof.flops};
  report.linear = BenchLinear(ctx, probe, options.repetitions);
  OPTSERVE_ASSIGN_OR_RETURN(report.model, BenchModel(probe, options.num_threads, options.repetitions));
  return report;
}

std::string KernelReportText(const KernelReport& report) {
  std::string text =
      fmt::format("{}, {} threads, {}: reads {:.1f} GB/s, {:.0f} GFLOP/s of f32 multiply-adds\n", report.cpu,
                  report.num_threads, report.isa, report.read_bytes_per_second * 1e-9, report.flops * 1e-9);
  Add(text, "Linear, f16 weights of OPT-125M", report.linear);
  Add(text, "OPT-125M, f16 weights, whole steps", report.model);
  return text;
}

std::string KernelReportJson(const KernelReport& report) {
  const nlohmann::json json = {{"cpu", report.cpu},
                               {"threads", report.num_threads},
                               {"isa", report.isa},
                               {"read_bytes_per_second", report.read_bytes_per_second},
                               {"flops", report.flops},
                               {"linear", ToJson(report.linear)},
                               {"model", ToJson(report.model)}};
  return json.dump(2) + "\n";
}

std::string KernelReportCsv(const KernelReport& report) {
  std::string csv = "group,name,value,unit,ratio,of,target\n";
  const auto add = [&csv](const char* group, const std::vector<Measurement>& measurements) {
    for (const Measurement& m : measurements) {
      csv += fmt::format("{},\"{}\",{:.6g},{},{:.4f},{},{}\n", group, m.name, m.value, m.unit, m.ratio, m.of,
                         m.target > 0 ? fmt::format("{:.4f}", m.target) : "");
    }
  };
  add("linear", report.linear);
  add("model", report.model);
  return csv;
}

}  // namespace optserve
