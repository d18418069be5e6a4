#pragma once

#include "kernels/common/context.h"
#include "kernels/common/tensor.h"

namespace optserve {

inline constexpr int kMaxTopLogprobs = 20;

// How often a token already stands in a sequence.
struct TokenCount {
  int32_t id = 0;
  int32_t generated = 0;  // times among the generated tokens; 0 means that it is in the prompt only
};

struct LogitBias {
  int32_t id = 0;
  float bias = 0.0f;
};

// How one row's next token is chosen. Applied in this order to a copy of the logits:
//   repetition penalty (divide if > 0, else multiply; Keskar et al. 2019, CTRL, sec. 4.1) on every token in counts;
//   presence and frequency penalties (OpenAI) on generated tokens; logit bias; suppression; then, if temperature > 0,
//   division by temperature, top-k, top-p (Holtzman et al. 2020; keeps the token that crosses p), min-p (Nguyen et al.
//   2024; relative to the most likely token that is left), typical-p (Meister et al. 2022; by distance of -log p from
//   the entropy of what is left), and a draw by inverse transform in id order.
// Ties are broken towards the lowest id, everywhere. temperature 0 takes the largest.
struct SampleRow {
  float temperature = 1.0f;
  int32_t top_k = 0;       // 0: off
  float top_p = 1.0f;      // 1: off
  float min_p = 0.0f;      // 0: off
  float typical_p = 1.0f;  // 1: off
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;  // with choice and position the whole key of the randomness: Philox4x32-10, Salmon et al. 2011
  uint32_t choice = 0;
  uint32_t position = 0;                             // index in the sequence of the token to be drawn
  int32_t vocab_limit = 0;                           // ids >= this are never chosen (rows without a token); 0: no limit
  int32_t num_top = 0;                               // best tokens to report, <= kMaxTopLogprobs
  int32_t counts_begin = 0, counts_end = 0;          // range of SampleParams::counts
  int32_t bias_begin = 0, bias_end = 0;              // range of SampleParams::bias
  int32_t suppressed_begin = 0, suppressed_end = 0;  // range of SampleParams::suppressed: ids not allowed now
};

// Draws one token per row and reports log probabilities of the *unmodified* distribution log_softmax(logits), in which
// every vocabulary row takes part. Arrays lie in the backend's memory.
//
// Errors    finite[r] = 0 if the row holds a NaN or +Inf, or nothing but -Inf that may be chosen; its other outputs are
//           then unspecified.
// Numerics  log-sum-exp in a fixed order, shared with Score: same row, same bits. Max abs error 1e-5.
struct SampleParams {
  TensorView logits;                    // [R, V] f32, not changed
  const SampleRow* rows = nullptr;      // [R]
  const TokenCount* counts = nullptr;   // packed, ids of one row distinct
  const LogitBias* bias = nullptr;      // packed
  const int32_t* suppressed = nullptr;  // packed
  TensorView ids;                       // out [R] i32
  TensorView logprobs;                  // out [R] f32
  TensorView top_ids;                   // out [R, kMaxTopLogprobs] i32: the best num_top, best first
  TensorView top_logprobs;              // out [R, kMaxTopLogprobs] f32
  TensorView finite;                    // out [R] i32
};

// Log probabilities of given tokens: scoring of prompts. Same routine as Sample's.
struct ScoreParams {
  TensorView logits;        // [R, V] f32
  TensorView targets;       // [R] i32
  int32_t num_top = 0;      // best tokens to report per row, <= kMaxTopLogprobs
  TensorView logprobs;      // out [R] f32
  TensorView top_ids;       // out [R, kMaxTopLogprobs] i32
  TensorView top_logprobs;  // out [R, kMaxTopLogprobs] f32
  TensorView finite;        // out [R] i32
};

namespace cpu {
void Sample(const CpuContext& ctx, const SampleParams& p);
void Score(const CpuContext& ctx, const ScoreParams& p);
}  // namespace cpu

namespace cuda {
void Sample(const CudaContext& ctx, const SampleParams& p);
void Score(const CudaContext& ctx, const ScoreParams& p);
}  // namespace cuda

}  // namespace optserve
