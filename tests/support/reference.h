#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/attention/paged_attention.h"
#include "kernels/common/half.h"
#include "kernels/common/tensor.h"
#include "kernels/embedding/embedding.h"
#include "kernels/linear/linear.h"
#include "kernels/norm/layer_norm.h"
#include "kernels/sampling/sampling.h"

// One naive f64 loop per op, obviously right and never optimised. Every backend answers to it.

namespace optserve::reference {

// Element [row, column] of a matrix, or element [row] of a vector, in f64.
inline double At(const TensorView& view, int64_t row, int64_t column = 0) {
  const int64_t i = row * view.row_stride + column;
  const auto read = [&](auto value) {  // files store tensors as aligned as they like
    std::memcpy(&value, static_cast<const std::byte*>(view.data) + i * static_cast<int64_t>(sizeof(value)),
                sizeof(value));
    return value;
  };
  if (view.dtype == DType::kI32) return read(int32_t{});
  if (view.dtype == DType::kF16) return ToF32(read(F16{}));
  if (view.dtype == DType::kBF16) return ToF32(read(BF16{}));
  return read(float{});
}

inline double Activate(double x, Activation activation) {
  if (activation == Activation::kRelu) return x < 0.0 ? 0.0 : x;
  if (activation == Activation::kGelu) return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
  return x;
}

// [T, N] of each part, as `out` should be afterwards. Call it before the op: accumulate reads out.
inline std::vector<std::vector<double>> Linear(const LinearParams& p) {
  std::vector<std::vector<double>> results;
  for (int i = 0; i < p.num_parts; ++i) {
    const LinearPart& part = p.parts[i];
    std::vector<double>& result = results.emplace_back();
    for (int64_t t = 0; t < p.x.dims[0]; ++t) {
      for (int64_t n = 0; n < part.weight.dims[0]; ++n) {
        double sum = part.bias.empty() ? 0.0 : At(part.bias, n);
        for (int64_t k = 0; k < p.x.dims[1]; ++k) sum += At(p.x, t, k) * At(part.weight, n, k);
        result.push_back(Activate(sum, p.activation) + (p.accumulate ? At(part.out, t, n) : 0.0));
      }
    }
  }
  return results;
}

// [T, w]
inline std::vector<double> Embedding(const EmbeddingParams& p) {
  std::vector<double> result;
  for (int64_t t = 0; t < p.ids.dims[0]; ++t) {
    auto id = static_cast<int64_t>(At(p.ids, t));
    if (id < 0 && -id - 1 < p.drawn.dims[0]) id = static_cast<int64_t>(At(p.drawn, -id - 1));
    const int64_t row = id - p.first_id;
    for (int64_t i = 0; i < p.table.dims[1]; ++i) {
      result.push_back(row >= 0 && row < p.table.dims[0] ? At(p.table, row, i) : 0.0);
    }
  }
  return result;
}

// [T, E], as x should be afterwards. Call it before the op.
inline std::vector<double> PositionEmbedding(const PositionEmbeddingParams& p) {
  std::vector<double> result;
  for (int64_t t = 0; t < p.x.dims[0]; ++t) {
    const auto row = static_cast<int64_t>(At(p.positions, t)) + 2;
    for (int64_t i = 0; i < p.x.dims[1]; ++i) result.push_back(At(p.x, t, i) + At(p.table, row, i));
  }
  return result;
}

// [T, E]
inline std::vector<double> LayerNorm(const LayerNormParams& p) {
  std::vector<double> result;
  const int64_t n = p.x.dims[1];
  for (int64_t t = 0; t < p.x.dims[0]; ++t) {
    double mean = 0.0, variance = 0.0;
    for (int64_t i = 0; i < n; ++i) mean += At(p.x, t, i) / static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) variance += std::pow(At(p.x, t, i) - mean, 2) / static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) {
      const double y = (At(p.x, t, i) - mean) / std::sqrt(variance + p.epsilon);
      result.push_back(y * (p.weight.empty() ? 1.0 : At(p.weight, i)) + (p.bias.empty() ? 0.0 : At(p.bias, i)));
    }
  }
  return result;
}

// [T, E], as x should be afterwards. Call it before the op.
inline std::vector<double> AddBiasResidual(const AddBiasResidualParams& p) {
  std::vector<double> result;
  for (int64_t t = 0; t < p.x.dims[0]; ++t) {
    for (int64_t i = 0; i < p.x.dims[1]; ++i) {
      result.push_back(At(p.x, t, i) + At(p.partial, t, i) + (p.bias.empty() ? 0.0 : At(p.bias, i)));
    }
  }
  return result;
}

// [T, H, D]
inline std::vector<double> PagedAttention(const PagedAttentionParams& p) {
  const int64_t heads = p.q.dims[1], head_size = p.q.dims[2], block_size = p.k_cache.dims[2];
  const auto cached = [&](const TensorView& cache, int64_t sequence, int64_t j, int64_t h, int64_t d) {
    const auto block = static_cast<int64_t>(At(p.block_tables, sequence, j / block_size));
    return At(cache, block, (h * block_size + j % block_size) * head_size + d);
  };
  std::vector<double> result;
  for (int64_t i = 0; i < p.context_lens.dims[0]; ++i) {
    const auto begin = static_cast<int64_t>(At(p.query_starts, i)),
               end = static_cast<int64_t>(At(p.query_starts, i + 1));
    for (int64_t t = begin; t < end; ++t) {
      const int64_t last = static_cast<int64_t>(At(p.context_lens, i)) - (end - t);
      for (int64_t h = 0; h < heads; ++h) {
        std::vector<double> weights;
        for (int64_t j = 0; j <= last; ++j) {
          double score = 0.0;
          for (int64_t d = 0; d < head_size; ++d)
            score += At(p.q, t, h * head_size + d) * cached(p.k_cache, i, j, h, d);
          weights.push_back(score * p.scale);
        }
        const double largest = *std::max_element(weights.begin(), weights.end());
        double total = 0.0;
        for (double& weight : weights) total += weight = std::exp(weight - largest);
        for (int64_t d = 0; d < head_size; ++d) {
          double sum = 0.0;
          for (int64_t j = 0; j <= last; ++j) sum += weights[j] / total * cached(p.v_cache, i, j, h, d);
          result.push_back(sum);
        }
      }
    }
  }
  return result;
}

// log_softmax of one row of logits.
inline std::vector<double> LogSoftmax(const std::vector<float>& logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double total = 0.0;
  for (const float logit : logits) total += std::exp(logit - largest);
  std::vector<double> result;
  for (const float logit : logits) result.push_back(logit - largest - std::log(total));
  return result;
}

// A row's logits after penalties, bias and suppression, which are f32 with one rounding each step.
inline std::vector<float> ModifiedLogits(std::vector<float> logits, const SampleParams& p, const SampleRow& row) {
  for (int32_t i = row.counts_begin; i < row.counts_end; ++i) {
    float& logit = logits[p.counts[i].id];
    logit = logit > 0.0f ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    const int32_t times = p.counts[i].generated;
    if (times > 0) logit -= row.presence_penalty + row.frequency_penalty * static_cast<float>(times);
  }
  for (int32_t i = row.bias_begin; i < row.bias_end; ++i) logits[p.bias[i].id] += p.bias[i].bias;
  for (int32_t i = row.suppressed_begin; i < row.suppressed_end; ++i) logits[p.suppressed[i]] = -INFINITY;
  return logits;
}

// The probability with which Sample draws each id of a row: the whole of SampleRow's comment, step by step, each on a
// list sorted anew. `logits` are the row's, already with penalties and the like.
inline std::vector<double> SamplingDistribution(const std::vector<float>& logits, const SampleRow& row) {
  struct Token {
    size_t id;
    double p;
  };
  const size_t size = row.vocab_limit > 0 ? std::min<size_t>(logits.size(), row.vocab_limit) : logits.size();
  std::vector<Token> tokens;
  const double largest = *std::max_element(logits.begin(), logits.begin() + static_cast<int64_t>(size));
  for (size_t id = 0; id < size; ++id) {
    tokens.push_back({id, std::exp((double{logits[id]} - largest) / double{row.temperature})});
  }
  const auto normalize = [&] {
    double total = 0.0;
    for (const Token& token : tokens) total += token.p;
    for (Token& token : tokens) token.p /= total;
  };
  const auto keep_mass = [&](double mass) {
    double sum = 0.0;
    size_t kept = 0;
    while (kept < tokens.size() && sum < mass) sum += tokens[kept++].p;
    tokens.resize(std::max<size_t>(1, kept));
  };
  std::stable_sort(tokens.begin(), tokens.end(), [](const Token& a, const Token& b) { return a.p > b.p; });
  if (row.top_k > 0 && static_cast<size_t>(row.top_k) < tokens.size()) tokens.resize(row.top_k);
  normalize();
  if (row.top_p < 1.0f) keep_mass(row.top_p);
  normalize();
  if (row.min_p > 0.0f)
    std::erase_if(tokens, [&, best = tokens[0].p](const Token& t) { return t.p < row.min_p * best; });
  normalize();
  if (row.typical_p < 1.0f) {
    double entropy = 0.0;
    for (const Token& token : tokens) entropy -= token.p > 0.0 ? token.p * std::log(token.p) : 0.0;
    std::sort(tokens.begin(), tokens.end(), [](const Token& a, const Token& b) { return a.id < b.id; });
    std::stable_sort(tokens.begin(), tokens.end(), [&](const Token& a, const Token& b) {
      return std::abs(-std::log(a.p) - entropy) < std::abs(-std::log(b.p) - entropy);
    });
    keep_mass(row.typical_p);
    normalize();
  }
  std::vector<double> result(logits.size(), 0.0);
  for (const Token& token : tokens) result[token.id] = token.p;
  return result;
}

}  // namespace optserve::reference
