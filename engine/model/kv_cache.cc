#include "engine/model/kv_cache.h"

#include "engine/util/status_macros.h"

namespace optserve {

absl::StatusOr<KvCache> KvCache::Allocate(const Shape& shape, Backend& backend) {
  const int64_t tokens = shape.num_blocks * shape.block_size;
  OPTSERVE_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> memory,
                            backend.Allocate(static_cast<size_t>(BytesPerToken(shape) * tokens)));
  return KvCache(shape, std::move(memory));
}

}  // namespace optserve
