#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace optserve {

enum class DeviceChoice { kAuto, kCpu, kCuda };

// How weights are held. Auto: as the checkpoint has them.
enum class DTypeChoice { kAuto, kFloat16, kFloat32, kInt8 };

// Everything an engine is told at start. Parsed from JSON by ParseEngineConfig (unknown keys refused), and sent as the
// same JSON from the front end to its engine process.
struct EngineConfig {
  std::string model_path;                     // a directory
  std::string model_config_path;              // a config.json to read instead of the model's; empty: the model's
  DeviceChoice device = DeviceChoice::kAuto;  // auto: CUDA if this build and machine have it, else the CPU
  DTypeChoice dtype = DTypeChoice::kAuto;     // refused where the device cannot hold this checkpoint so
  int32_t tensor_parallel_size = 1;           // ranks; must divide the model's heads and ffn size
  int32_t max_model_len = 0;                  // tokens; 0: the model's positions
  int32_t max_num_seqs = 256;                 // sequences that run at a time
  int32_t max_num_batched_tokens = 2048;      // tokens of one step, decodes and prefill chunks together
  int32_t batch_step_tokens = 128;            // up to so many, requests of the batch lane join others' steps
  int32_t block_size = 16;                    // tokens per KV block
  int64_t kv_cache_bytes = 0;                 // 0: by the backend's rule, see Executor::Start
  int32_t max_queue = 1024;                   // requests that wait
  bool prefix_cache = true;                   // prompts that begin alike are computed once
  bool share_prefix_cache = false;            // also between API keys: who asks can then tell by the time whether
                                              // another key's prompt began the same
  int64_t max_queue_tokens = 1 << 22;         // prompt tokens of the requests that wait
  bool deterministic_tp = false;              // the same bits on 1, 2, 4, ... ranks, see adr/0006
  int32_t steps_in_flight = 0;                // 2: a step is planned while another one runs, see adr/0007; 0: if the
                                              // device gains by it, see StartResult::max_steps_in_flight
  int32_t cuda_graph_batch = 256;             // the largest batch of decodes that is captured as a CUDA graph; 0: none
  int32_t num_threads = 0;                    // CPU: threads of all ranks together; 0: all of the machine
  bool verify = false;                        // look at every weight while loading, and compare checksums
  int32_t engines_on_machine = 1;             // that share its memory, this one included
  int32_t first_device = 0;                   // GPUs: that of rank 0; the other ranks have those behind it
  int32_t step_timeout_seconds = 10;          // a step that takes longer, and 20 times the p99, is taken for hung
};

// InvalidArgument names the key, its value and what is allowed.
absl::StatusOr<EngineConfig> ParseEngineConfig(std::string_view json);
std::string EngineConfigToJson(const EngineConfig& config);

}  // namespace optserve
