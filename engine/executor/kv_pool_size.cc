#include "engine/executor/kv_pool_size.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "engine/util/status.h"

namespace optserve {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

int64_t MemAvailable() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key; meminfo >> key;) {
    int64_t kib = 0;
    if (key == "MemAvailable:" && meminfo >> kib) return kib * 1024;
    meminfo.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return kUnlimited;
}

// What the file's only line says; "max" or no file (no control group, or the first version of them) is no limit.
int64_t ReadLimit(const char* path) {
  std::ifstream file(path);
  int64_t bytes = 0;
  return file >> bytes ? bytes : kUnlimited;
}

}  // namespace

absl::StatusOr<KvBudget> SizeKvPool(const EngineConfig& config, int64_t max_model_len, int64_t bytes_per_token,
                                    int64_t available_bytes) {
  if (config.kv_cache_bytes > available_bytes) {
    return ResourceExhausted("--kv-cache-memory is {} bytes, but {} are available; lower it, or leave it out",
                             config.kv_cache_bytes, available_bytes);
  }
  const int64_t block = config.block_size;
  const auto blocks_for = [&](int64_t tokens) { return (tokens + block - 1) / block; };
  const int64_t least = blocks_for(max_model_len);
  const int64_t share = available_bytes / 2 / config.engines_on_machine;
  const int64_t bytes = config.kv_cache_bytes > 0 ? config.kv_cache_bytes : share;
  int64_t blocks = bytes / (bytes_per_token * block);
  if (blocks < least) {
    const int64_t needed = least * block * bytes_per_token;
    if (config.kv_cache_bytes > 0) {
      return ResourceExhausted(
          "--kv-cache-memory is {} bytes, but one sequence of {} tokens needs {}; raise it, or lower --max-model-len",
          config.kv_cache_bytes, max_model_len, needed);
    }
    return ResourceExhausted(
        "one sequence of {} tokens needs {} bytes of KV cache, and only half of the {} bytes of memory that are "
        "available may be used{}; lower --max-model-len",
        max_model_len, needed, available_bytes,
        config.engines_on_machine > 1 ? fmt::format(", by {} engines together", config.engines_on_machine) : "");
  }
  if (config.kv_cache_bytes == 0) blocks = std::min(blocks, least * config.max_num_seqs);
  // Slots are 32-bit.
  blocks = std::min(blocks, int64_t{std::numeric_limits<int32_t>::max()} / block);
  return KvBudget{.num_blocks = static_cast<int32_t>(blocks), .block_size = config.block_size};
}

absl::StatusOr<KvBudget> SizeDeviceKvPool(const EngineConfig& config, int64_t max_model_len, int64_t bytes_per_token,
                                          int64_t free_bytes) {
  const int64_t block = config.block_size;
  const int64_t least = (max_model_len + block - 1) / block;
  const int64_t needed = least * block * bytes_per_token;
  const int64_t asked = config.kv_cache_bytes / config.tensor_parallel_size;
  if (asked > 0 && asked > free_bytes) {
    return ResourceExhausted(
        "kv_cache_bytes is {}, which is {} bytes on each GPU, but the fullest has {} left: {} too few; lower it",
        config.kv_cache_bytes, asked, free_bytes, asked - free_bytes);
  }
  if (asked > 0 && asked < needed) {
    return ResourceExhausted(
        "kv_cache_bytes is {}, but one sequence of {} tokens needs {} bytes; raise it, or lower max_model_len",
        config.kv_cache_bytes, max_model_len, needed * config.tensor_parallel_size);
  }
  if (free_bytes < needed) {
    return ResourceExhausted(
        "one sequence of {} tokens needs {} bytes of KV cache on each GPU and the fullest has {} left: {} too few; {} "
        "tokens would fit; lower max_model_len or raise tensor_parallel_size",
        max_model_len, needed, std::max<int64_t>(0, free_bytes), needed - free_bytes,
        std::max<int64_t>(0, free_bytes) / (bytes_per_token * block) * block);
  }
  int64_t blocks = (asked > 0 ? asked : free_bytes) / (bytes_per_token * block);
  if (asked == 0) blocks = std::min(blocks, least * config.max_num_seqs);
  blocks = std::min(blocks, int64_t{std::numeric_limits<int32_t>::max()} / block);  // slots are 32-bit
  return KvBudget{.num_blocks = static_cast<int32_t>(blocks), .block_size = config.block_size};
}

int64_t AvailableMemoryBytes() {
  const int64_t limit = ReadLimit("/sys/fs/cgroup/memory.max");
  if (limit == kUnlimited) return MemAvailable();
  const int64_t used = ReadLimit("/sys/fs/cgroup/memory.current");
  return std::min(MemAvailable(), std::max<int64_t>(0, limit - (used == kUnlimited ? 0 : used)));
}

}  // namespace optserve
