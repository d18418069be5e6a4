#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "engine/checkpoint/tensor_region.h"
#include "engine/model/opt_config.h"
#include "kernels/common/tensor.h"

// How every tensor of an OPT is split over the ranks of a tensor-parallel group: the one table that says so.
//
// Source  Shoeybi et al. 2019, "Megatron-LM", sec. 3.

namespace optserve {

enum class Split : uint8_t {
  kReplicated,  // every rank has all of it
  kVocabulary,  // dim 0, ceil(V / ranks) rows each; the last rank has what is left, perhaps nothing
  kColumn,      // dim 0: output features, whole heads for q, k, v
  kRow,         // dim 1: input features; an all-reduce follows
};

// The sizes that shapes are made of.
enum class Dim : uint8_t { kNone, kVocab, kEmbed, kHidden, kFfn, kPositions };

// Which tensors a model has at all.
enum class Presence : uint8_t {
  kAlways,
  kWithBias,         // absent from every layer: 0
  kWithAffine,       // absent from every norm: weight 1, bias 0
  kWithProjections,  // 350M
  kUntied,           // lm_head.weight of its own
};

enum class TensorRole : uint8_t {
  kEmbedTokens,
  kEmbedPositions,
  kProjectIn,
  kProjectOut,
  kFinalNormWeight,
  kFinalNormBias,
  kLmHead,
  // Of each layer:
  kQWeight,
  kQBias,
  kKWeight,
  kKBias,
  kVWeight,
  kVBias,
  kOutWeight,
  kOutBias,
  kAttnNormWeight,
  kAttnNormBias,
  kFc1Weight,
  kFc1Bias,
  kFc2Weight,
  kFc2Bias,
  kFfnNormWeight,
  kFfnNormBias,
};

struct TensorSpec {
  TensorRole role;
  const char* name;  // Hugging Face's, behind the prefix and, for a layer's tensors, behind "layers.N."
  Dim rows;
  Dim columns;  // kNone: a vector
  Split split;
  Presence presence;
};

std::span<const TensorSpec> ModelTensors();  // without those of a layer
std::span<const TensorSpec> LayerTensors();
const TensorSpec& SpecOf(TensorRole role);

int64_t SizeOfDim(const OptConfig& config, Dim dim);

// The whole tensor's, as an f16 view without data.
TensorView ShapeOf(const OptConfig& config, const TensorSpec& spec);

// Whether a model of this config has such tensors, as the config says.
bool IsPresent(const OptConfig& config, Presence presence);

struct Shard {
  int32_t rank = 0;
  int32_t size = 1;  // ranks
};

// The vocabulary rows of a shard: [first, first + count).
struct VocabRange {
  int64_t first = 0;
  int64_t count = 0;
};
int64_t VocabRowsPerRank(int64_t vocab_size, int32_t num_ranks);
VocabRange VocabRangeOf(int64_t vocab_size, const Shard& shard);

// The part of a whole tensor that is this shard's, from the tensor's shape. Sizes must divide, see
// CheckTensorParallelSize.
TensorRegion ShardOf(const TensorView& whole, Split split, const Shard& shard);

}  // namespace optserve
