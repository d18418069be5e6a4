#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kernels/common/check.h"
#include "kernels/common/parallel_for.h"
#include "kernels/sampling/candidates.h"
#include "kernels/sampling/philox.h"
#include "kernels/sampling/sampling.h"
#include "kernels/sampling/sampling_simd.h"

namespace optserve::cpu {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Where one row's log probabilities go.
struct RowScores {
  float* logprob = nullptr;
  int32_t* finite = nullptr;
  int32_t* top_ids = nullptr;
  float* top_logprobs = nullptr;
};

template <typename Params>
RowScores ScoresOf(const Params& p, int64_t r) {
  return {p.logprobs.template as<float>() + r, p.finite.template as<int32_t>() + r,
          p.top_ids.Rows(r, 1).template as<int32_t>(), p.top_logprobs.Rows(r, 1).template as<float>()};
}

float LogProbability(std::span<const float> logits, const RowNormalizer& row, int64_t id) {
  return (logits[id] - row.largest) - row.log_sum;
}

// The best num_top ids by insertion: after the first few, almost every token is below the worst kept one.
void FindTop(std::span<const float> logits, const RowNormalizer& row, int num_top, const RowScores& out) {
  int count = 0;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (count == num_top && !(logits[id] > out.top_logprobs[count - 1])) continue;
    int at = count < num_top ? count++ : count - 1;
    for (; at > 0 && logits[id] > out.top_logprobs[at - 1]; --at) {
      out.top_logprobs[at] = out.top_logprobs[at - 1];
      out.top_ids[at] = out.top_ids[at - 1];
    }
    out.top_logprobs[at] = logits[id];
    out.top_ids[at] = static_cast<int32_t>(id);
  }
  for (int i = 0; i < count; ++i) out.top_logprobs[i] = LogProbability(logits, row, out.top_ids[i]);
}

// Everything that Sample and Score say about the unmodified distribution, but for the chosen token's own value.
RowNormalizer Describe(const CpuContext& ctx, std::span<const float> logits, int num_top, const RowScores& out) {
  RowNormalizer row;
  OPTSERVE_SIMD_CALL(ctx.info.isa, NormalizeRow)(logits.data(), static_cast<int64_t>(logits.size()), row);
  *out.finite = std::isfinite(row.largest) && std::isfinite(row.log_sum);
  if (*out.finite && num_top > 0) FindTop(logits, row, std::min<int>(num_top, static_cast<int>(logits.size())), out);
  return row;
}

// Penalties, bias and suppression, in the order of SampleRow's comment.
void Modify(std::span<float> logits, const SampleParams& p, const SampleRow& row) {
  const auto size = static_cast<int32_t>(logits.size());
  for (int32_t i = row.counts_begin; i < row.counts_end; ++i) {
    const TokenCount& seen = p.counts[i];
    OPTSERVE_CHECK(seen.id >= 0 && seen.id < size) << "counted id " << seen.id;
    float& logit = logits[seen.id];
    logit = logit > 0.0f ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    if (seen.generated > 0) {
      logit -= row.presence_penalty + row.frequency_penalty * static_cast<float>(seen.generated);
    }
  }
  for (int32_t i = row.bias_begin; i < row.bias_end; ++i) {
    if (p.bias[i].id >= 0 && p.bias[i].id < size) logits[p.bias[i].id] += p.bias[i].bias;
  }
  for (int32_t i = row.suppressed_begin; i < row.suppressed_end; ++i) {
    if (p.suppressed[i] >= 0 && p.suppressed[i] < size) logits[p.suppressed[i]] = kMinusInfinity;
  }
}

int32_t ChooseToken(const CpuContext& ctx, std::span<float> logits, std::span<Candidate> candidates,
                    const SampleRow& row) {
  const auto size = static_cast<int64_t>(logits.size());
  const float largest = OPTSERVE_SIMD_CALL(ctx.info.isa, LargestOf)(logits.data(), size);
  if (row.temperature <= 0.0f || largest == kMinusInfinity) {
    return static_cast<int32_t>(std::find(logits.begin(), logits.end(), largest) - logits.begin());
  }
  // Bounded, because a temperature may be so small that its inverse is not a number to multiply 0 with.
  const float scale = std::min(1.0f / row.temperature, 1e30f);
  OPTSERVE_SIMD_CALL(ctx.info.isa, ExpOfDifferences)(logits.data(), logits.data(), size, largest, scale);
  for (int64_t id = 0; id < size; ++id) candidates[id] = {logits[id], static_cast<int32_t>(id)};
  int64_t kept = size;
  const bool cut = row.top_k > 0 || row.top_p < 1.0f || row.min_p > 0.0f || row.typical_p < 1.0f;
  if (cut) {
    kept = KeepCandidates(candidates, row);
    std::sort(candidates.begin(), candidates.begin() + kept,
              [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  }
  return Draw(candidates.first(kept), UniformAt(row.seed, row.choice, row.position));
}

// Memory for the modified logits and the candidates: the thread's scratch, or for vocabularies beyond 80 thousand the
// heap.
class RowMemory {
 public:
  RowMemory(const CpuContext& ctx, int thread, int64_t size) : size_(size) {
    const size_t bytes = static_cast<size_t>(size) * (sizeof(float) + sizeof(Candidate));
    if (bytes > CpuContext::kScratchBytes) heap_.resize(bytes);
    memory_ = heap_.empty() ? ctx.scratch(thread) : heap_.data();
  }
  std::span<Candidate> candidates() const {
    return {reinterpret_cast<Candidate*>(memory_), static_cast<size_t>(size_)};
  }
  std::span<float> logits() const {
    return {reinterpret_cast<float*>(memory_ + size_ * sizeof(Candidate)), static_cast<size_t>(size_)};
  }

 private:
  int64_t size_;
  std::vector<std::byte> heap_;
  std::byte* memory_ = nullptr;
};

bool ChangesNothing(const SampleRow& row) {
  return row.counts_begin == row.counts_end && row.bias_begin == row.bias_end &&
         row.suppressed_begin == row.suppressed_end;
}

void SampleOne(const CpuContext& ctx, const SampleParams& p, int64_t r, const RowMemory& memory) {
  const SampleRow& row = p.rows[r];
  const std::span<const float> logits(p.logits.Rows(r, 1).as<const float>(), p.logits.dims[1]);
  const RowScores out = ScoresOf(p, r);
  const RowNormalizer normalizer = Describe(ctx, logits, row.num_top, out);
  int32_t& id = p.ids.as<int32_t>()[r];
  id = 0;
  *out.logprob = 0.0f;
  if (*out.finite == 0) return;

  const bool limited = row.vocab_limit > 0 && row.vocab_limit < p.logits.dims[1];
  const auto allowed = limited ? logits.first(row.vocab_limit) : logits;
  if (row.temperature <= 0.0f && ChangesNothing(row)) {
    const float largest =
        limited ? OPTSERVE_SIMD_CALL(ctx.info.isa, LargestOf)(allowed.data(), static_cast<int64_t>(allowed.size()))
                : normalizer.largest;
    id = static_cast<int32_t>(std::find(allowed.begin(), allowed.end(), largest) - allowed.begin());
  } else {
    std::copy(logits.begin(), logits.end(), memory.logits().begin());
    Modify(memory.logits(), p, row);
    id = ChooseToken(ctx, memory.logits().first(allowed.size()), memory.candidates(), row);
  }
  *out.logprob = LogProbability(logits, normalizer, id);
}

}  // namespace

void Sample(const CpuContext& ctx, const SampleParams& p) {
  OPTSERVE_CHECK(p.logits.rank == 2 && p.logits.dtype == DType::kF32 && p.logits.dims[1] > 0);
  OPTSERVE_CHECK(p.ids.dims[0] >= p.logits.dims[0] && p.finite.dims[0] >= p.logits.dims[0]);
  ParallelFor(ctx, p.logits.dims[0], 1, [&](int64_t begin, int64_t end, int thread) {
    const RowMemory memory(ctx, thread, p.logits.dims[1]);
    for (int64_t r = begin; r < end; ++r) SampleOne(ctx, p, r, memory);
  });
}

void Score(const CpuContext& ctx, const ScoreParams& p) {
  OPTSERVE_CHECK(p.logits.rank == 2 && p.logits.dtype == DType::kF32 && p.logits.dims[1] > 0);
  OPTSERVE_CHECK(p.targets.dims[0] >= p.logits.dims[0] && p.finite.dims[0] >= p.logits.dims[0]);
  ParallelFor(ctx, p.logits.dims[0], 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const std::span<const float> logits(p.logits.Rows(r, 1).as<const float>(), p.logits.dims[1]);
      const RowScores out = ScoresOf(p, r);
      const RowNormalizer normalizer = Describe(ctx, logits, p.num_top, out);
      const int32_t target = p.targets.as<const int32_t>()[r];
      OPTSERVE_CHECK(target >= 0 && target < p.logits.dims[1]) << "target " << target;
      *out.logprob = *out.finite != 0 ? LogProbability(logits, normalizer, target) : 0.0f;
    }
  });
}

}  // namespace optserve::cpu
