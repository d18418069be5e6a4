#include "engine/planner/node.h"

#include <array>

#include "engine/util/status.h"
#include "nlohmann/json.hpp"

namespace optserve {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

const std::array<NodeSpec, 6>& Table() {
  static const std::array<NodeSpec, 6> table = {{
      {.name = "dgx2",
       .devices = "16 x V100-SXM3-32, NVSwitch",
       .num_devices = 16,
       .memory_bytes = 31.73 * kGiB,
       .reserved_bytes = 1.5 * kGiB,
       .read_bytes_per_second = 900e9,
       .flops_per_second = 125e12,
       .link_bytes_per_second = 145.6e9,
       .source = "NVIDIA V100 datasheet (900 GB/s, 125 TFLOPS f16); link: p2pBandwidthLatencyTest of a 16 x "
                 "V100-SXM3-32 machine, one way to any peer"},
      {.name = "dgx1",
       .devices = "8 x V100-SXM2-32, NVLink cube mesh",
       .num_devices = 8,
       .memory_bytes = 31.73 * kGiB,
       .reserved_bytes = 1.5 * kGiB,
       .read_bytes_per_second = 900e9,
       .flops_per_second = 125e12,
       .link_bytes_per_second = 50e9,
       .source = "NVIDIA V100 datasheet; link: two NVLink2 bricks to a direct neighbour"},
      {.name = "dgx-a100",
       .devices = "8 x A100-SXM4-80, NVSwitch",
       .num_devices = 8,
       .memory_bytes = 79.15 * kGiB,
       .reserved_bytes = 2.5 * kGiB,
       .read_bytes_per_second = 2039e9,
       .flops_per_second = 312e12,
       .link_bytes_per_second = 300e9,
       .source = "NVIDIA A100 80GB datasheet"},
      {.name = "a100",
       .devices = "1 x A100-SXM4-80",
       .num_devices = 1,
       .memory_bytes = 79.15 * kGiB,
       .reserved_bytes = 2.5 * kGiB,
       .read_bytes_per_second = 2039e9,
       .flops_per_second = 312e12,
       .source = "NVIDIA A100 80GB datasheet"},
      {.name = "h200",
       .devices = "1 x H200-SXM-141",
       .num_devices = 1,
       .memory_bytes = 139.8 * kGiB,
       .reserved_bytes = 3.0 * kGiB,
       .read_bytes_per_second = 4800e9,
       .flops_per_second = 989e12,
       .source = "NVIDIA H200 datasheet"},
      {.name = "cpu-2",
       .devices = "2 cores of a server CPU with AVX-512",
       .num_devices = 1,
       .memory_bytes = 16 * kGiB,
       .reserved_bytes = 1 * kGiB,
       .read_bytes_per_second = 28e9,
       .flops_per_second = 348e9,
       .source = "read-only and f32 FMA loops on two Emerald Rapids cores, a quiet minute"},
  }};
  return table;
}

}  // namespace

std::span<const NodeSpec> Nodes() { return Table(); }

absl::StatusOr<NodeSpec> FindNode(std::string_view name) {
  std::string known;
  for (const NodeSpec& node : Nodes()) {
    if (node.name == name) return node;
    known += known.empty() ? "" : ", ";
    known += node.name;
  }
  return NotFound("\"{}\" is no node that is known; there are {}, or a .json file", name, known);
}

absl::StatusOr<NodeSpec> ParseNode(std::string_view text) {
  const nlohmann::json json = nlohmann::json::parse(text, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return InvalidArgument("the node is not a JSON object");
  NodeSpec node;
  struct TextKey {
    const char* name;
    std::string* value;
  };
  struct NumberKey {
    const char* name;
    double* value;
    double min;
    bool is_required;
  };
  double num_devices = 0;
  const std::array<TextKey, 3> texts = {{{"name", &node.name}, {"devices", &node.devices}, {"source", &node.source}}};
  const std::array<NumberKey, 6> numbers = {{{"num_devices", &num_devices, 1, true},
                                             {"memory_bytes", &node.memory_bytes, 1, true},
                                             {"reserved_bytes", &node.reserved_bytes, 0, false},
                                             {"read_bytes_per_second", &node.read_bytes_per_second, 1, true},
                                             {"flops_per_second", &node.flops_per_second, 1, true},
                                             {"link_bytes_per_second", &node.link_bytes_per_second, 0, false}}};
  for (const auto& [key, value] : json.items()) {
    bool is_known = false;
    for (const TextKey& text_key : texts) {
      if (key != text_key.name) continue;
      if (!value.is_string()) return InvalidArgument("{} is {}, but must be a string", key, value.dump());
      *text_key.value = value.get<std::string>();
      is_known = true;
    }
    for (const NumberKey& number : numbers) {
      if (key != number.name) continue;
      if (!value.is_number() || value.get<double>() < number.min || value.get<double>() > 1e18) {
        return InvalidArgument("{} is {}, but must be a number from {} to 1e18", key, value.dump(), number.min);
      }
      *number.value = value.get<double>();
      is_known = true;
    }
    if (!is_known) return InvalidArgument("\"{}\" is no key of a node", key);
  }
  if (node.name.empty()) return InvalidArgument("name is missing");
  for (const NumberKey& number : numbers) {
    if (number.is_required && !json.contains(number.name)) return InvalidArgument("{} is missing", number.name);
  }
  if (num_devices > 1024 || num_devices != static_cast<int32_t>(num_devices)) {
    return InvalidArgument("num_devices is {}, but must be a whole number from 1 to 1024", num_devices);
  }
  node.num_devices = static_cast<int32_t>(num_devices);
  if (node.num_devices > 1 && node.link_bytes_per_second == 0) {
    return InvalidArgument("link_bytes_per_second is missing, but there are {} devices", node.num_devices);
  }
  return node;
}

}  // namespace optserve
