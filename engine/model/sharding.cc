#include "engine/model/sharding.h"

#include <algorithm>

#include "kernels/common/check.h"

namespace optserve {
namespace {

using R = TensorRole;
using D = Dim;
using S = Split;
using P = Presence;

// clang-format off
constexpr TensorSpec kModelTensors[] = {
    {R::kEmbedTokens,     "embed_tokens.weight",     D::kVocab,     D::kEmbed,  S::kVocabulary, P::kAlways},
    {R::kEmbedPositions,  "embed_positions.weight",  D::kPositions, D::kHidden, S::kReplicated, P::kAlways},
    {R::kProjectIn,       "project_in.weight",       D::kHidden,    D::kEmbed,  S::kReplicated, P::kWithProjections},
    {R::kProjectOut,      "project_out.weight",      D::kEmbed,     D::kHidden, S::kReplicated, P::kWithProjections},
    {R::kFinalNormWeight, "final_layer_norm.weight", D::kHidden,    D::kNone,   S::kReplicated, P::kWithAffine},
    {R::kFinalNormBias,   "final_layer_norm.bias",   D::kHidden,    D::kNone,   S::kReplicated, P::kWithAffine},
    {R::kLmHead,          "lm_head.weight",          D::kVocab,     D::kEmbed,  S::kVocabulary, P::kUntied},
};

constexpr TensorSpec kLayerTensors[] = {
    {R::kQWeight,        "self_attn.q_proj.weight",         D::kHidden, D::kHidden, S::kColumn,     P::kAlways},
    {R::kQBias,          "self_attn.q_proj.bias",           D::kHidden, D::kNone,   S::kColumn,     P::kWithBias},
    {R::kKWeight,        "self_attn.k_proj.weight",         D::kHidden, D::kHidden, S::kColumn,     P::kAlways},
    {R::kKBias,          "self_attn.k_proj.bias",           D::kHidden, D::kNone,   S::kColumn,     P::kWithBias},
    {R::kVWeight,        "self_attn.v_proj.weight",         D::kHidden, D::kHidden, S::kColumn,     P::kAlways},
    {R::kVBias,          "self_attn.v_proj.bias",           D::kHidden, D::kNone,   S::kColumn,     P::kWithBias},
    {R::kOutWeight,      "self_attn.out_proj.weight",       D::kHidden, D::kHidden, S::kRow,        P::kAlways},
    {R::kOutBias,        "self_attn.out_proj.bias",         D::kHidden, D::kNone,   S::kReplicated, P::kWithBias},
    {R::kAttnNormWeight, "self_attn_layer_norm.weight",     D::kHidden, D::kNone,   S::kReplicated, P::kWithAffine},
    {R::kAttnNormBias,   "self_attn_layer_norm.bias",       D::kHidden, D::kNone,   S::kReplicated, P::kWithAffine},
    {R::kFc1Weight,      "fc1.weight",                      D::kFfn,    D::kHidden, S::kColumn,     P::kAlways},
    {R::kFc1Bias,        "fc1.bias",                        D::kFfn,    D::kNone,   S::kColumn,     P::kWithBias},
    {R::kFc2Weight,      "fc2.weight",                      D::kHidden, D::kFfn,    S::kRow,        P::kAlways},
    {R::kFc2Bias,        "fc2.bias",                        D::kHidden, D::kNone,   S::kReplicated, P::kWithBias},
    {R::kFfnNormWeight,  "final_layer_norm.weight",         D::kHidden, D::kNone,   S::kReplicated, P::kWithAffine},
    {R::kFfnNormBias,    "final_layer_norm.bias",           D::kHidden, D::kNone,   S::kReplicated, P::kWithAffine},
};
// clang-format on

}  // namespace

std::span<const TensorSpec> ModelTensors() { return kModelTensors; }
std::span<const TensorSpec> LayerTensors() { return kLayerTensors; }

const TensorSpec& SpecOf(TensorRole role) {
  for (const auto& specs : {ModelTensors(), LayerTensors()}) {
    for (const TensorSpec& spec : specs) {
      if (spec.role == role) return spec;
    }
  }
  OPTSERVE_CHECK(false) << "a tensor without a line in the table";
  return kModelTensors[0];
}

TensorView ShapeOf(const OptConfig& config, const TensorSpec& spec) {
  const int64_t rows = SizeOfDim(config, spec.rows), columns = SizeOfDim(config, spec.columns);
  return spec.columns == Dim::kNone ? MakeView(nullptr, DType::kF16, rows)
                                    : MakeView(nullptr, DType::kF16, rows, columns);
}

bool IsPresent(const OptConfig& config, Presence presence) {
  if (presence == Presence::kWithBias) return config.has_bias;
  if (presence == Presence::kWithAffine) return config.layer_norm_affine;
  if (presence == Presence::kWithProjections) return config.has_projections();
  if (presence == Presence::kUntied) return !config.tied_embeddings;
  return true;
}

int64_t SizeOfDim(const OptConfig& config, Dim dim) {
  constexpr int64_t kPositionOffset = 2;  // the table's two padding rows
  switch (dim) {
    case Dim::kNone:
      return 1;
    case Dim::kVocab:
      return config.vocab_size;
    case Dim::kEmbed:
      return config.embed_size;
    case Dim::kHidden:
      return config.hidden_size;
    case Dim::kFfn:
      return config.ffn_size;
    case Dim::kPositions:
      return config.max_positions + kPositionOffset;
  }
  return 0;
}

int64_t VocabRowsPerRank(int64_t vocab_size, int32_t num_ranks) { return (vocab_size + num_ranks - 1) / num_ranks; }

VocabRange VocabRangeOf(int64_t vocab_size, const Shard& shard) {
  const int64_t rows = VocabRowsPerRank(vocab_size, shard.size);
  const int64_t first = std::min(vocab_size, rows * shard.rank);
  return {first, std::min(vocab_size, first + rows) - first};
}

TensorRegion ShardOf(const TensorView& whole, Split split, const Shard& shard) {
  TensorRegion region{.rows = whole.dims[0], .columns = whole.rank == 1 ? 1 : whole.dims[1]};
  switch (split) {
    case Split::kReplicated:
      break;
    case Split::kVocabulary: {
      const VocabRange range = VocabRangeOf(whole.dims[0], shard);
      region.row = range.first;
      region.rows = range.count;
      break;
    }
    case Split::kColumn:
      OPTSERVE_CHECK(whole.dims[0] % shard.size == 0) << whole.dims[0] << " rows over " << shard.size << " ranks";
      region.rows = whole.dims[0] / shard.size;
      region.row = region.rows * shard.rank;
      break;
    case Split::kRow:
      OPTSERVE_CHECK(whole.dims[1] % shard.size == 0) << whole.dims[1] << " columns over " << shard.size << " ranks";
      region.columns = whole.dims[1] / shard.size;
      region.column = region.columns * shard.rank;
      break;
  }
  return region;
}

}  // namespace optserve
