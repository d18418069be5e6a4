#include "engine/planner/cost_model.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/util/status.h"

namespace optserve {
namespace {

constexpr double kMicrosecond = 1e-6;
constexpr double kMillisecond = 1e-3;

constexpr Estimate Times(const Estimate& a, double factor) {
  return {a.fast * factor, a.likely * factor, a.slow * factor};
}

// clang-format off
constexpr std::array<EngineProfile, 4> kProfiles = {{
    {.name = "optserve-cuda",
     .read_efficiency = {0.90, 0.85, 0.77},
     .matrix_efficiency = {0.79, 0.72, 0.62},
     .kv_efficiency = {0.85, 0.70, 0.40},
     .layer_seconds = Times({8, 12, 30}, kMicrosecond),
     .all_reduce_seconds = Times({5, 6, 10}, kMicrosecond),
     .all_reduce_rank_seconds = Times({0.05, 0.15, 0.5}, kMicrosecond),
     .step_seconds = Times({40, 80, 200}, kMicrosecond),
     .sequence_seconds = Times({0.1, 0.3, 1.0}, kMicrosecond),
     .source = "kernels measured by others on V100: reading 77-90 % (v100-skinny README), products 62-74 % "
               "(marlin_v100), A100 products 79 % (DistServe); all-reduce of 24 KiB over 16 ranks 6-17 us (NVSwitch wire "
               "time plus hops; NCCL's tuning table). Not measured with this engine yet"},
    {.name = "optserve-cpu",
     .read_efficiency = {0.90, 0.75, 0.60},
     .matrix_efficiency = {0.80, 0.60, 0.45},
     .kv_efficiency = {0.80, 0.60, 0.40},
     .layer_seconds = Times({5, 15, 40}, kMicrosecond),
     .all_reduce_seconds = Times({5, 20, 60}, kMicrosecond),
     .all_reduce_rank_seconds = Times({1, 5, 20}, kMicrosecond),
     .step_seconds = Times({50, 150, 500}, kMicrosecond),
     .sequence_seconds = Times({20, 60, 200}, kMicrosecond),  // sampling from 50272 logits
     .source = "the goals of the CPU kernels: 75 % of the read bandwidth, 60 % of the f32 FMA peak"},
    {.name = "cpp-2023",
     .read_efficiency = {0.85, 0.85, 0.85},
     .matrix_efficiency = {0.79, 0.79, 0.79},
     .kv_efficiency = {0.20, 0.20, 0.20},  // decode attention that is not split along the context
     .layer_seconds = Times({80, 80, 80}, kMicrosecond),
     .all_reduce_seconds = Times({7, 7, 7}, kMicrosecond),
     .all_reduce_rank_seconds = Times({5.5, 5.5, 5.5}, kMicrosecond),
     .step_seconds = Times({0.2, 0.2, 0.2}, kMillisecond),
     .sequence_seconds = Times({5, 5, 5}, kMicrosecond),
     .source = "FasterTransformer and DistServe's C++ engine on A100-80, fitted to their published times"},
    {.name = "vllm-2023",
     .read_efficiency = {0.85, 0.85, 0.85},
     .matrix_efficiency = {0.57, 0.57, 0.57},
     .kv_efficiency = {0.68, 0.68, 0.68},
     .layer_seconds = Times({120, 120, 120}, kMicrosecond),
     .all_reduce_seconds = Times({12, 12, 12}, kMicrosecond),
     .all_reduce_rank_seconds = Times({8.5, 8.5, 8.5}, kMicrosecond),
     .step_seconds = Times({3.7, 3.7, 3.7}, kMillisecond),  // a Python scheduler
     .sequence_seconds = Times({61, 61, 61}, kMicrosecond),
     .source = "vLLM of 2023 on A100-80, fitted to DistServe's profile of it"},
}};
// clang-format on

double At(const Estimate& estimate, Outlook outlook) {
  switch (outlook) {
    case Outlook::kFast:
      return estimate.fast;
    case Outlook::kLikely:
      return estimate.likely;
    case Outlook::kSlow:
      return estimate.slow;
  }
  return estimate.likely;
}

}  // namespace

absl::StatusOr<EngineProfile> FindEngineProfile(std::string_view name) {
  std::string known;
  for (const EngineProfile& profile : kProfiles) {
    if (profile.name == name) return profile;
    known += known.empty() ? "" : ", ";
    known += profile.name;
  }
  return NotFound("\"{}\" is no engine profile; there are {}", name, known);
}

StepWork DecodeWork(int64_t num_sequences, int64_t context_tokens) {
  return {.num_tokens = num_sequences,
          .num_sequences = num_sequences,
          .num_samples = num_sequences,
          .kv_tokens = num_sequences * context_tokens,
          .attended_pairs = num_sequences * context_tokens};
}

StepWork PrefillWork(int64_t prompt_tokens) {
  return {.num_tokens = prompt_tokens,
          .num_sequences = 1,
          .num_samples = 1,
          .kv_tokens = prompt_tokens,
          .attended_pairs = prompt_tokens * (prompt_tokens + 1) / 2};
}

CostModel::CostModel(Options options) : options_(std::move(options)) {}

double CostModel::LinearParameters() const {
  const OptConfig& m = options_.model;
  const double hidden = m.hidden_size;
  const double per_layer = 4 * hidden * hidden + 2 * hidden * m.ffn_size;
  const double projections = m.has_projections() ? 2.0 * m.embed_size * hidden : 0.0;
  return m.num_layers * per_layer / options_.tensor_parallel_size + projections;
}

double CostModel::HeadParameters() const {
  const OptConfig& m = options_.model;
  return std::ceil(static_cast<double>(m.vocab_size) / options_.tensor_parallel_size) * m.embed_size;
}

double CostModel::WeightBytes() const {
  const OptConfig& m = options_.model;
  const double hidden = m.hidden_size;
  const double ranks = options_.tensor_parallel_size;
  const double column_biases = (3 * hidden + m.ffn_size) / ranks;
  const double biases = m.has_bias ? column_biases + 2 * hidden : 0.0;
  const double norms = m.layer_norm_affine ? 4 * hidden : 0.0;
  const double final_norm = m.final_layer_norm && m.layer_norm_affine ? 2 * hidden : 0.0;
  const double positions = (m.max_positions + 2) * hidden;
  const double untied_head = m.tied_embeddings ? 0.0 : HeadParameters();
  const double small = m.num_layers * (biases + norms) + final_norm + positions;
  // What is not a product with tokens stays f16.
  return (LinearParameters() + HeadParameters() + untied_head) * options_.weight_bytes + small * 2.0;
}

double CostModel::KvBytesPerToken() const {
  const OptConfig& m = options_.model;
  return 2.0 * m.num_layers * m.hidden_size * options_.kv_bytes / options_.tensor_parallel_size;
}

int64_t CostModel::KvTokens() const {
  const double room = options_.node.memory_bytes - options_.node.reserved_bytes - WeightBytes();
  return static_cast<int64_t>(std::floor(room / KvBytesPerToken()));
}

StepDemand CostModel::Demand(const StepWork& work) const {
  const OptConfig& m = options_.model;
  const double ranks = options_.tensor_parallel_size;
  const double linear = LinearParameters() * ranks;
  const double head = HeadParameters() * ranks;
  const auto samples = static_cast<double>(work.num_samples);
  return {.weight_bytes = (linear + (work.num_samples > 0 ? head : 0.0)) * options_.weight_bytes,
          .kv_bytes = static_cast<double>(work.kv_tokens) * KvBytesPerToken() * ranks,
          .weight_flops = 2 * (linear * static_cast<double>(work.num_tokens) + head * samples),
          .attention_flops = 4.0 * m.num_layers * m.hidden_size * static_cast<double>(work.attended_pairs)};
}

StepCost CostModel::Step(const StepWork& work, Outlook outlook) const {
  const OptConfig& m = options_.model;
  const EngineProfile& p = options_.profile;
  const double ranks = options_.tensor_parallel_size;
  const double read = options_.node.read_bytes_per_second * At(p.read_efficiency, outlook);
  const double read_kv = options_.node.read_bytes_per_second * At(p.kv_efficiency, outlook);
  const double flops = options_.node.flops_per_second * At(p.matrix_efficiency, outlook);
  const auto tokens = static_cast<double>(work.num_tokens);
  const auto products = [&](double parameters, double rows) {
    return std::max(parameters * options_.weight_bytes / read, 2 * parameters * rows / flops);
  };
  StepCost cost;
  cost.products = products(LinearParameters(), tokens);
  cost.head = work.num_samples == 0 ? 0.0 : products(HeadParameters(), static_cast<double>(work.num_samples));
  cost.kv = static_cast<double>(work.kv_tokens) * KvBytesPerToken() / read_kv;
  // Two products of [1, D] with [D, context] for each token and head.
  cost.attention = 4.0 * m.num_layers * m.hidden_size / ranks * static_cast<double>(work.attended_pairs) / flops;
  if (ranks > 1) {
    const double bytes = tokens * m.hidden_size * 2.0;  // f16 partial sums
    const double wire = 2 * (ranks - 1) / ranks * bytes / options_.node.link_bytes_per_second;
    const double start = At(p.all_reduce_seconds, outlook) + (ranks - 1) * At(p.all_reduce_rank_seconds, outlook);
    cost.all_reduce = 2 * m.num_layers * (start + wire);
  }
  cost.layers = m.num_layers * At(p.layer_seconds, outlook);
  cost.host = At(p.step_seconds, outlook) + static_cast<double>(work.num_sequences) * At(p.sequence_seconds, outlook);
  return cost;
}

}  // namespace optserve
