#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace optserve {

// One rank's share of the paged KV cache: keys and values of its heads, for all layers.
//
// Source  Kwon et al. 2023, "PagedAttention", sec. 4.
class KvCache {
 public:
  struct Shape {
    int64_t num_layers = 0;
    int64_t num_blocks = 0;  // P
    int64_t num_heads = 0;   // H, of this rank
    int64_t block_size = 0;  // B, tokens
    int64_t head_size = 0;   // D
    DType dtype = DType::kF32;
  };

  // Bytes of one token, keys and values of all layers.
  static int64_t BytesPerToken(const Shape& shape) {
    return 2 * shape.num_layers * shape.num_heads * shape.head_size * static_cast<int64_t>(SizeOf(shape.dtype));
  }

  static absl::StatusOr<KvCache> Allocate(const Shape& shape, Backend& backend);

  TensorView keys(int64_t layer) const { return View(2 * layer); }        // [P, H, B, D]
  TensorView values(int64_t layer) const { return View(2 * layer + 1); }  // [P, H, B, D]
  const Shape& shape() const { return shape_; }

 private:
  KvCache(const Shape& shape, std::unique_ptr<Buffer> memory) : shape_(shape), memory_(std::move(memory)) {}

  TensorView View(int64_t index) const {
    const int64_t elements = shape_.num_blocks * shape_.num_heads * shape_.block_size * shape_.head_size;
    const int64_t bytes = elements * static_cast<int64_t>(SizeOf(shape_.dtype));
    return MakeView(static_cast<std::byte*>(memory_->data()) + index * bytes, shape_.dtype, shape_.num_blocks,
                    shape_.num_heads, shape_.block_size, shape_.head_size);
  }

  Shape shape_;
  std::unique_ptr<Buffer> memory_;
};

}  // namespace optserve
