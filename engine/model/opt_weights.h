#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/read_ahead.h"
#include "engine/model/opt_config.h"
#include "engine/model/sharding.h"
#include "kernels/backend.h"

namespace optserve {

struct NormWeights {
  TensorView weight;  // [E], or empty: 1
  TensorView bias;    // [E], or empty: 0
};

struct LinearWeights {
  TensorView weight;  // [N, K]
  TensorView bias;    // [N], or empty: 0
};

struct LayerWeights {
  NormWeights attn_norm;
  LinearWeights q, k, v;
  LinearWeights out;  // the bias is of the whole, to be added once
  NormWeights ffn_norm;
  LinearWeights fc1;
  LinearWeights fc2;  // the bias is of the whole, to be added once
};

// One rank's weights, in its backend's memory. On the CPU that is the mapped file: nothing is copied, unless a shard
// lies in several places of the checkpoint.
struct OptWeights {
  TensorView embed_tokens;     // [V / ranks, w]: rows from vocab.first on
  TensorView embed_positions;  // [max_positions + 2, E]
  TensorView project_in;       // [E, w], or empty
  TensorView project_out;      // [w, E], or empty
  std::vector<LayerWeights> layers;
  NormWeights final_norm;
  TensorView lm_head;  // [V / ranks, w]; the same memory as embed_tokens when tied
  VocabRange vocab;
};

// The tensors of a checkpoint by what they are in the model; each is whole, of the right shape, and named exactly once.
class OptTensors {
 public:
  // InvalidArgument: a list of what is missing, has a wrong shape, or is not of this model, each with its file.
  static absl::StatusOr<OptTensors> Match(const OptConfig& config, const Checkpoint& checkpoint);

  // nullptr where the model does without. `layer` is -1 for tensors of the model itself.
  const CheckpointTensor* Find(int32_t layer, TensorRole role) const;

  // Stored beside the weights by some writers, and needed by no model: never loaded.
  const std::vector<const CheckpointTensor*>& ignored() const { return ignored_; }

  int64_t num_parameters() const { return num_parameters_; }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  std::map<std::pair<int32_t, TensorRole>, const CheckpointTensor*> tensors_;
  std::vector<const CheckpointTensor*> ignored_;
  int64_t num_parameters_ = 0;
  int64_t num_bytes_ = 0;
};

// All that Match would complain about, a line each; empty if nothing.
std::vector<std::string> FindMismatches(const OptConfig& config, const Checkpoint& checkpoint);

// What a rank reads of the files: its part of each tensor, in the order of the files, and not a byte more.
std::vector<ByteRegion> BytesOfShard(const OptConfig& config, const OptTensors& tensors, const Shard& shard);

struct LoadOptions {
  int num_readers = 4;                                    // threads that read ahead
  std::function<void(int64_t bytes)> progress = nullptr;  // so many bytes more are in memory; from any thread
  // If set, every number is looked at once it is in memory, those of ignored tensors too (by rank 0), and
  // this is told what `optserve verify` would say of it.
  std::function<void(std::string problem)> on_problem = nullptr;
};

// Makes a rank's shard of every tensor usable by its backend: reads what BytesOfShard says, ahead of what is copied to
// the backend. The host needs no memory for it beyond the page cache and what Backend::LoadRows says. The checkpoint
// must outlive the backend.
//
// Errors  Unavailable names the file that could not be read; those of Backend::LoadWeight name the tensor.
absl::StatusOr<OptWeights> LoadOptWeights(const OptConfig& config, const OptTensors& tensors, const Shard& shard,
                                          Backend& backend, const LoadOptions& options = {});

// A rank's shard of a model that no file holds, for measuring: every tensor that the config asks for is what `make`
// makes of its shape, an f16 matrix or an f32 vector without data. Its memory is the caller's.
using MakeWeight = std::function<absl::StatusOr<TensorView>(const TensorView& shape)>;
absl::StatusOr<OptWeights> MakeOptWeights(const OptConfig& config, const Shard& shard, const MakeWeight& make);

}  // namespace optserve
