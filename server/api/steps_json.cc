#include "server/api/steps_json.h"

#include <fmt/format.h>

namespace optserve {

std::string EncodeSteps(std::span<const StepRecord> steps) {
  std::string json = R"({"steps":[)";
  for (const StepRecord& step : steps) {
    if (json.back() != '[') json += ',';
    json += fmt::format(R"({{"step":{},"replica":{},"begin_ns":{},"tokens":{},"sequences":{},"phase_ns":{{)", step.step,
                        step.replica, step.begin_ns, step.num_tokens, step.num_sequences);
    for (size_t i = 0; i < kNumStepPhases; ++i) {
      json += fmt::format(R"({}"{}":{})", i == 0 ? "" : ",", kStepPhaseNames[i], step.times.ns[i]);
    }
    const StepDemand& demand = step.demand;
    json +=
        fmt::format(R"(}},"weight_bytes":{:.0f},"kv_bytes":{:.0f},"weight_flops":{:.0f},"attention_flops":{:.0f}}})",
                    demand.weight_bytes, demand.kv_bytes, demand.weight_flops, demand.attention_flops);
  }
  json += "]}";
  return json;
}

}  // namespace optserve
