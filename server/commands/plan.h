#pragma once

#include <cstdint>
#include <string>

namespace optserve {

struct PlanOptions {
  std::string model;         // a size such as opt-175b, a directory, or a name in the Hugging Face cache
  std::string node = "cpu";  // a name in the planner's table, a .json file, or cpu: this machine, measured
  std::string dtype = "float16";
  int32_t prompt_tokens = 512;
  int32_t output_tokens = 128;
  bool json = false;
};

// `optserve plan`: memory, concurrency, latency and throughput of a model on a node, modelled; nothing is loaded.
// Returns the exit code.
int Plan(const PlanOptions& options);

}  // namespace optserve
