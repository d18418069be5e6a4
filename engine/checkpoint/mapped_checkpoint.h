#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/mapped_file.h"

namespace optserve {

// A Checkpoint that is filled by the reader of a format: tensors that point into mapped files.
class MappedCheckpoint final : public Checkpoint {
 public:
  explicit MappedCheckpoint(std::string format) : format_(std::move(format)) {}

  // First, in any order: the tensors, and the files that they point into.
  void Add(CheckpointTensor tensor) { tensors_.push_back(std::move(tensor)); }
  void Keep(std::unique_ptr<MappedFile> file) { files_.push_back(std::move(file)); }

  // Then once: sorts. InvalidArgument if a name is there twice.
  absl::Status Finish();

  const std::vector<CheckpointTensor>& tensors() const override { return tensors_; }
  const CheckpointTensor* Find(std::string_view name) const override;
  std::string format() const override { return format_; }
  int64_t total_bytes() const override { return total_bytes_; }

 private:
  std::string format_;
  std::vector<CheckpointTensor> tensors_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  int64_t total_bytes_ = 0;
};

// A contiguous read-only view of mapped bytes. Shapes of more than four dimensions, which no OPT tensor has, become one
// of rank 4 with the rest multiplied into the last: it then has the wrong shape for any tensor.
TensorView MakeMappedView(const std::byte* data, DType dtype, std::span<const uint64_t> shape);

}  // namespace optserve
