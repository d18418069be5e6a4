#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/config.h"
#include "engine/executor/executor.h"

namespace optserve {

// How many KV blocks all ranks together can hold, `bytes_per_token` being what one token takes on all of them.
//
// Given kv_cache_bytes, as many as fit into it. Else on the CPU: enough for max_num_seqs sequences of `max_model_len`
// tokens, but no more than half of the memory that the system has available, shared by engines_on_machine; pages are
// taken when they are first used, so that a pool larger than the traffic costs nothing.
//
// ResourceExhausted, with the numbers, when not even one sequence of max_model_len tokens fits.
absl::StatusOr<KvBudget> SizeKvPool(const EngineConfig& config, int64_t max_model_len, int64_t bytes_per_token,
                                    int64_t available_bytes);

// The same for devices with memory of their own: all of `free_bytes`, what the fullest rank has left beside its weights
// and activations, may be used. `bytes_per_token` is one rank's. Given kv_cache_bytes, which counts all ranks, as many
// as fit into it, if they fit into the devices.
absl::StatusOr<KvBudget> SizeDeviceKvPool(const EngineConfig& config, int64_t max_model_len, int64_t bytes_per_token,
                                          int64_t free_bytes);

// Bytes that this process can still take: MemAvailable of /proc/meminfo, or what its control group has left if that is
// less (a container with a memory limit).
int64_t AvailableMemoryBytes();

}  // namespace optserve
