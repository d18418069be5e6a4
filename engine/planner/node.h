#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace optserve {

// A machine, by what its parts can do at best. What an engine gets out of them is an EngineProfile's matter.
struct NodeSpec {
  std::string name;     // a CPU's begins with "cpu"
  std::string devices;  // "16 x V100-SXM3-32, NVSwitch"
  int32_t num_devices = 1;
  double memory_bytes = 0.0;    // of each device
  double reserved_bytes = 0.0;  // of those, for the driver, libraries and activations
  double read_bytes_per_second = 0.0;
  double flops_per_second = 0.0;       // dense products in the compute type
  double link_bytes_per_second = 0.0;  // from one device to its peers, one way; 0: one device
  std::string source;

  bool operator==(const NodeSpec&) const = default;
};

// The nodes that are known by name.
std::span<const NodeSpec> Nodes();

// NotFound lists the names.
absl::StatusOr<NodeSpec> FindNode(std::string_view name);

// A JSON object with the fields of NodeSpec. InvalidArgument names the key, its value and what is allowed; absent are
// only `devices`, `reserved_bytes` and `source`, and the link of a single device.
absl::StatusOr<NodeSpec> ParseNode(std::string_view json);

}  // namespace optserve
