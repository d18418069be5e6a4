#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/config.h"
#include "engine/executor/executor.h"

namespace optserve {

// How many KV blocks all ranks together can hold, `bytes_per_token` being what one token takes on all of them.
//
// Given kv_cache_bytes, as many as fit into it. Else on the CPU: enough for max_num_seqs sequences of `max_model_len`
// tokens, but no more than half of the memory that the system has available; pages are taken when they are first used,
// so that a pool larger than the traffic costs nothing.
//
// ResourceExhausted, with the numbers, when not even one sequence of max_model_len tokens fits.
absl::StatusOr<KvBudget> SizeKvPool(const EngineConfig& config, int64_t max_model_len, int64_t bytes_per_token,
                                    int64_t available_bytes);

// Bytes that this process can still take: MemAvailable of /proc/meminfo, or what its control group has left if that is
// less (a container with a memory limit).
int64_t AvailableMemoryBytes();

}  // namespace optserve
