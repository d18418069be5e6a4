#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/model/opt_config.h"
#include "engine/tools/large_pages.h"

namespace optserve {

// The f16 checkpoint of an OPT that nobody trained: every tensor that the config asks for, with small random values, in
// memory. For measuring; the values make no overflow and no subnormal numbers.
class RandomCheckpoint final : public Checkpoint {
 public:
  explicit RandomCheckpoint(const OptConfig& config);

  const std::vector<CheckpointTensor>& tensors() const override { return tensors_; }
  const CheckpointTensor* Find(std::string_view name) const override;
  std::string format() const override { return "random"; }
  std::string source() const override { return "random"; }
  int64_t total_bytes() const override { return values_.size() * static_cast<int64_t>(sizeof(uint16_t)); }

 private:
  LargePages<uint16_t> values_;  // f16
  std::vector<CheckpointTensor> tensors_;
};

}  // namespace optserve
