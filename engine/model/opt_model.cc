#include "engine/model/opt_model.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <utility>

#include "engine/util/status_macros.h"
#include "kernels/common/check.h"

namespace optserve {
namespace {

// [T, N] columns of a matrix as [T, H, D].
TensorView AsHeads(const TensorView& matrix, int64_t num_heads, int64_t head_size) {
  TensorView view = matrix;
  view.rank = 3;
  view.dims = {matrix.dims[0], num_heads, head_size, 0};
  return view;
}

}  // namespace

absl::StatusOr<OptModel> OptModel::Make(const OptConfig& config, OptWeights weights, int64_t max_tokens,
                                        bool deterministic_tp, KvCache& kv, Communicator& comm, Backend& backend) {
  const int32_t num_slices = deterministic_tp ? NumTreeSlices(config) / comm.size() : 0;
  OptModel model(config, std::move(weights), num_slices, kv, comm, backend);
  OPTSERVE_RETURN_IF_ERROR(model.AllocateActivations(max_tokens));
  return model;
}

int64_t OptModel::ActivationBytes(const OptConfig& config, int num_ranks, bool deterministic_tp, int64_t max_tokens,
                                  DType dtype) {
  Activations unused;
  const int32_t num_slices = deterministic_tp ? NumTreeSlices(config) / num_ranks : 0;
  return LayOut(config, num_ranks, num_slices, max_tokens, dtype, nullptr, unused);
}

int64_t OptModel::LayOut(const OptConfig& config, int num_ranks, int32_t num_slices, int64_t max_tokens, DType dtype,
                         std::byte* memory, Activations& a) {
  const bool several = num_ranks > 1;
  // A pair of slices is summed in one place; each half of more slices than that needs one.
  const int64_t num_levels = num_slices > 0
                                 ? std::max(1, static_cast<int>(std::bit_width(static_cast<unsigned>(num_slices))) - 1)
                             : several ? 1
                                       : 0;
  const int64_t width = config.num_heads / num_ranks * config.head_size();
  const int64_t vocab_rows = VocabRowsPerRank(config.vocab_size, num_ranks);
  const int64_t projected = config.has_projections() ? 1 : 0;
  struct Want {
    TensorView* view;
    int64_t rows;
    int64_t columns;
    DType dtype = DType::kF32;
  };
  const std::array<Want, 13> wants = {{
      {&a.embed, projected * max_tokens, config.embed_size},
      {&a.x, max_tokens, config.hidden_size},
      {&a.h, max_tokens, config.hidden_size, dtype},
      {&a.qkv, max_tokens, 3 * width, dtype},
      {&a.attn, max_tokens, width, dtype},
      {&a.ffn, max_tokens, config.ffn_size / num_ranks, dtype},
      {&a.partial, num_levels * max_tokens, config.hidden_size},
      {&a.rows, kLogitTile, config.hidden_size},
      {&a.head_rows, config.final_layer_norm ? kLogitTile : 0, config.hidden_size, dtype},
      {&a.embed_rows, projected * kLogitTile, config.embed_size, dtype},
      {&a.logits_shard, several ? kLogitTile : 0, vocab_rows},
      {&a.gathered, several ? num_ranks : 0, kLogitTile * vocab_rows},
      {&a.logits, kLogitTile, config.vocab_size},
  }};
  constexpr int64_t kLine = 64;  // bytes; every array starts on a cache line
  int64_t bytes = 0;
  for (const Want& want : wants) {
    *want.view = MakeView(memory != nullptr ? memory + bytes : nullptr, want.dtype, want.rows, want.columns);
    bytes += (static_cast<int64_t>(want.view->num_bytes()) + kLine - 1) / kLine * kLine;
  }
  return bytes;
}

absl::Status OptModel::AllocateActivations(int64_t max_tokens) {
  const DType dtype = backend_->info().activation_dtype;
  Activations unused;
  const int64_t bytes = LayOut(config_, comm_->size(), num_slices_, max_tokens, dtype, nullptr, unused);
  OPTSERVE_ASSIGN_OR_RETURN(memory_, backend_->Allocate(static_cast<size_t>(bytes)));
  LayOut(config_, comm_->size(), num_slices_, max_tokens, dtype, static_cast<std::byte*>(memory_->data()),
         activations_);
  return absl::OkStatus();
}

void OptModel::CopyBlocks(const StepInputs& in) {
  for (int32_t layer = 0; in.copy_src.dims[0] > 0 && layer < config_.num_layers; ++layer) {
    backend_->CopyBlocks(
        {.k_cache = kv_->keys(layer), .v_cache = kv_->values(layer), .src = in.copy_src, .dst = in.copy_dst});
  }
}

void OptModel::Forward(const StepInputs& in) {
  const TensorView x = activations_.x.Rows(0, in.num_tokens);
  Embed(in, x);
  if (config_.layer_norm_first) backend_->LayerNorm(NormOf(weights_.layers[0].attn_norm, x));
  // What a layer's halves read: the norm that the half before has made. With post-LN the first has none before it.
  const TensorView h = Normalised(x);
  for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
    SelfAttention(layer, in, x, layer == 0 && !config_.layer_norm_first ? x : h);
    FeedForward(layer, x, h);
  }
}

// With pre-LN h; with post-LN x itself, of which h has a copy where products read 16 bits.
TensorView OptModel::Normalised(const TensorView& x) const {
  const TensorView h = activations_.h.Rows(0, x.dims[0]);
  return config_.layer_norm_first || h.dtype != x.dtype ? h : x;
}

LayerNormParams OptModel::NormOf(const NormWeights& norm, const TensorView& x) const {
  const TensorView normalised = Normalised(x);
  LayerNormParams params{.out = normalised, .x = x, .weight = norm.weight, .bias = norm.bias};
  if (config_.layer_norm_first) return params;
  params.out = x;
  if (normalised.data != x.data) params.copy = normalised;
  return params;
}

// x = project_in(E[id]) + P[position]
void OptModel::Embed(const StepInputs& in, const TensorView& x) {
  const TensorView e = config_.has_projections() ? activations_.embed.Rows(0, in.num_tokens) : x;
  backend_->Embedding({.out = e,
                       .ids = in.token_ids,
                       .table = weights_.embed_tokens,
                       .first_id = static_cast<int32_t>(weights_.vocab.first),
                       .drawn = in.drawn});
  if (comm_->size() > 1) comm_->AllReduceSum(e);
  if (config_.has_projections()) backend_->Linear({.x = e, .parts = {{{.weight = weights_.project_in, .out = x}}}});
  backend_->PositionEmbedding({.x = x, .positions = in.positions, .table = weights_.embed_positions});
}

// x += Attention(h), with h = LayerNorm(x); a decoder layer's first half. Pre-LN except OPT-350M, where h is x and the
// norm comes last.
void OptModel::SelfAttention(int32_t layer, const StepInputs& in, const TensorView& x, const TensorView& h) {
  const LayerWeights& w = weights_.layers[layer];
  const TensorView qkv = activations_.qkv.Rows(0, in.num_tokens);
  const auto part = [&](int64_t i) { return qkv.Columns(i * local_width(), local_width()); };
  backend_->Linear(
      {.x = h,
       .parts = {{{w.q.weight, w.q.bias, part(0)}, {w.k.weight, w.k.bias, part(1)}, {w.v.weight, w.v.bias, part(2)}}},
       .num_parts = 3});
  const auto heads = [&](const TensorView& view) { return AsHeads(view, local_heads(), config_.head_size()); };
  backend_->WriteKv({.k_cache = kv_->keys(layer),
                     .v_cache = kv_->values(layer),
                     .k = heads(part(1)),
                     .v = heads(part(2)),
                     .slots = in.slots});
  const TensorView attn = activations_.attn.Rows(0, in.num_tokens);
  Attend(layer, in, heads(part(0)), heads(attn));
  RowParallel(w.out, attn, x, config_.layer_norm_first ? &w.ffn_norm : &w.attn_norm);
}

// The decoding sequences' tokens come first in a step, then the prefill chunks.
void OptModel::Attend(int32_t layer, const StepInputs& in, const TensorView& q, const TensorView& out) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_size()));
  const auto params = [&](int64_t first_token, int64_t num_tokens, int64_t first_sequence, int64_t num_sequences) {
    return PagedAttentionParams{.out = out.Rows(first_token, num_tokens),
                                .q = q.Rows(first_token, num_tokens),
                                .k_cache = kv_->keys(layer),
                                .v_cache = kv_->values(layer),
                                .block_tables = in.block_tables.Rows(first_sequence, num_sequences),
                                .context_lens = in.context_lens.Rows(first_sequence, num_sequences),
                                .scale = scale};
  };
  if (in.num_decode > 0) {
    PagedAttentionParams p = params(0, in.num_decode, 0, in.num_decode);
    p.query_starts = in.decode_starts;
    p.max_context_len = in.max_decode_context;
    backend_->PagedDecode(p);
  }
  if (in.num_sequences > in.num_decode) {
    PagedAttentionParams p =
        params(in.num_decode, in.num_tokens - in.num_decode, in.num_decode, in.num_sequences - in.num_decode);
    p.query_starts = in.prefill_starts;
    p.max_context_len = in.max_prefill_context;
    backend_->PagedPrefill(p);
  }
}

// x += FC2(activation(FC1(h))), with h = LayerNorm(x); a decoder layer's second half.
void OptModel::FeedForward(int32_t layer, const TensorView& x, const TensorView& h) {
  const LayerWeights& w = weights_.layers[layer];
  const TensorView ffn = activations_.ffn.Rows(0, x.dims[0]);
  backend_->Linear({.x = h, .parts = {{{w.fc1.weight, w.fc1.bias, ffn}}}, .activation = config_.activation});
  const NormWeights* norm = &w.ffn_norm;
  if (config_.layer_norm_first) norm = layer + 1 < config_.num_layers ? &weights_.layers[layer + 1].attn_norm : nullptr;
  RowParallel(w.fc2, ffn, x, norm);
}

void OptModel::RowParallel(const LinearWeights& linear, const TensorView& input, const TensorView& x,
                           const NormWeights* norm) {
  const auto finish = [&](const TensorView& partial) {
    const AddBiasResidualParams add{.x = x, .partial = partial, .bias = linear.bias};
    if (norm == nullptr) return comm_->AllReduceAddNorm(add, nullptr, *backend_);
    const LayerNormParams then = NormOf(*norm, x);
    comm_->AllReduceAddNorm(add, &then, *backend_);
  };
  if (num_slices_ > 0) return finish(SumSlices(linear.weight, input, 0, num_slices_, 0));
  if (comm_->size() == 1) {
    backend_->Linear({.x = input, .parts = {{{linear.weight, linear.bias, x}}}, .accumulate = true});
    if (norm != nullptr) backend_->LayerNorm(NormOf(*norm, x));
    return;
  }
  const TensorView partial = activations_.partial.Rows(0, input.dims[0]);
  backend_->Linear({.x = input, .parts = {{{.weight = linear.weight, .out = partial}}}});
  finish(partial);
}

// The ranks' slices are aligned subtrees of one tree over all of them, which AllReduceSum completes.
TensorView OptModel::SumSlices(const TensorView& weight, const TensorView& input, int32_t first, int32_t count,
                               int32_t level) {
  const TensorView sum = Partial(level, input.dims[0]);
  if (count > 2) {
    SumSlices(weight, input, first, count / 2, level);
    const TensorView right = SumSlices(weight, input, first + count / 2, count / 2, level + 1);
    backend_->AddBiasResidual({.x = sum, .partial = right});
    return sum;
  }
  const int64_t width = input.dims[1] / num_slices_;
  for (int32_t i = first; i < first + count; ++i) {
    backend_->Linear({.x = input.Columns(i * width, width),
                      .parts = {{{.weight = weight.Columns(i * width, width), .out = sum}}},
                      .accumulate = i > first});
  }
  return sum;
}

TensorView OptModel::Logits(const StepInputs& in, int64_t begin, int64_t count) {
  OPTSERVE_CHECK(count >= 1 && count <= kLogitTile) << count << " rows";
  const Activations& a = activations_;
  TensorView rows = a.rows.Rows(0, count);
  backend_->GatherRows({.out = rows, .x = a.x.Rows(0, in.num_tokens), .rows = in.logit_rows.Rows(begin, count)});
  if (config_.final_layer_norm) {
    const TensorView normalised = a.head_rows.Rows(0, count);
    const NormWeights& norm = weights_.final_norm;
    backend_->LayerNorm({.out = normalised, .x = rows, .weight = norm.weight, .bias = norm.bias});
    rows = normalised;
  }
  if (config_.has_projections()) {
    const TensorView projected = a.embed_rows.Rows(0, count);
    backend_->Linear({.x = rows, .parts = {{{.weight = weights_.project_out, .out = projected}}}});
    rows = projected;
  }
  const TensorView logits = a.logits.Rows(0, count);
  if (comm_->size() == 1) {
    backend_->Linear({.x = rows, .parts = {{{.weight = weights_.lm_head, .out = logits}}}});
    return logits;
  }

  // Every rank's shard has the same width; the last may use less of it, or nothing.
  const TensorView shard = a.logits_shard.Rows(0, count);
  if (weights_.vocab.count > 0) {
    backend_->Linear(
        {.x = rows, .parts = {{{.weight = weights_.lm_head, .out = shard.Columns(0, weights_.vocab.count)}}}});
  }
  const int64_t width = shard.dims[1];
  comm_->AllGather(shard, MakeView(a.gathered.data, DType::kF32, comm_->size(), count, width));
  for (int32_t r = 0; comm_->rank() == 0 && r < comm_->size(); ++r) {
    const VocabRange range = VocabRangeOf(config_.vocab_size, {.rank = r, .size = comm_->size()});
    if (range.count == 0) continue;
    const TensorView part = MakeView(a.gathered.as<float>() + r * count * width, DType::kF32, count, width);
    backend_->CopyRows({.dst = logits.Columns(range.first, range.count), .src = part.Columns(0, range.count)});
  }
  return logits;
}

}  // namespace optserve
