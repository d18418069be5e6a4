#include "engine/tools/plan_inputs.h"

#include <fmt/format.h>

#include "engine/executor/kv_pool_size.h"
#include "engine/tools/probe.h"
#include "kernels/common/cpu_context.h"

namespace optserve {

NodeSpec MeasureCpuNode(int num_threads) {
  // Asked first: the probe's buffer counts as taken.
  const auto memory_bytes = static_cast<double>(AvailableMemoryBytes());
  const CpuContext ctx(DetectCpu(num_threads));
  const MachineProbe::Sample roof = MachineProbe(ctx).Best();
  return {.name = "cpu",
          .devices = fmt::format("{}, {} threads", ctx.info.name, ctx.info.num_threads),
          .num_devices = 1,
          .memory_bytes = memory_bytes,
          .read_bytes_per_second = roof.bytes_per_second,
          .flops_per_second = roof.flops,
          .source = fmt::format("measured now: {:.1f} GB/s of reading, {:.0f} GFLOP/s of f32 multiply-adds",
                                roof.bytes_per_second / 1e9, roof.flops / 1e9)};
}

absl::StatusOr<OptConfig> ReadModelShape(const std::string& directory) { return LoadOptConfig(directory); }

}  // namespace optserve
