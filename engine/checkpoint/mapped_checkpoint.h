#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/util/model_directory.h"

namespace optserve {

// A Checkpoint that is filled by the reader of a format: tensors that point into mapped files.
class MappedCheckpoint final : public Checkpoint {
 public:
  // `source` is the file that messages name when no single file is to blame.
  MappedCheckpoint(std::string format, std::string source) : format_(std::move(format)), source_(std::move(source)) {}

  // First, in any order: the tensors, and the files that they point into.
  void Add(CheckpointTensor tensor) { tensors_.push_back(std::move(tensor)); }
  void Keep(std::unique_ptr<MappedFile> file) { files_.push_back(std::move(file)); }

  // Then once: sorts. InvalidArgument if a name is there twice.
  absl::Status Finish();

  const std::vector<CheckpointTensor>& tensors() const override { return tensors_; }
  const CheckpointTensor* Find(std::string_view name) const override;
  std::string format() const override { return format_; }
  std::string source() const override { return source_; }
  int64_t total_bytes() const override { return total_bytes_; }

 private:
  std::string format_;
  std::string source_;
  std::vector<CheckpointTensor> tensors_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  int64_t total_bytes_ = 0;
};

}  // namespace optserve
