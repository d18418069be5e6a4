#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
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

// Memory for one row's work: the thread's scratch, or for vocabularies beyond 50 thousand the heap.
class RowMemory {
 public:
  RowMemory(const CpuContext& ctx, int thread, int64_t size) : size_(size), num_blocks_(NumRowBlocks(size)) {
    const size_t bytes = static_cast<size_t>(size) * (sizeof(Candidate) + 2 * sizeof(float)) +
                         static_cast<size_t>(num_blocks_) * 4 * sizeof(float);
    if (bytes > CpuContext::kScratchBytes) heap_.resize(bytes);
    candidates_ = reinterpret_cast<Candidate*>(heap_.empty() ? ctx.scratch(thread) : heap_.data());
    floats_ = reinterpret_cast<float*>(candidates_ + size);
  }
  Candidate* candidates() const { return candidates_; }         // [size]
  std::span<float> logits() const { return Floats(0, size_); }  // modified
  std::span<float> largest() const { return Blocks(0); }        // of each block of logits
  std::span<float> ranked() const { return Blocks(1); }         // to select from
  RowWeights weights() const { return {Floats(size_, size_).data(), Blocks(2).data(), Blocks(3).data()}; }

 private:
  std::span<float> Floats(int64_t begin, int64_t count) const { return {floats_ + begin, static_cast<size_t>(count)}; }
  std::span<float> Blocks(int64_t i) const { return Floats(2 * size_ + i * num_blocks_, num_blocks_); }

  int64_t size_, num_blocks_;
  std::vector<std::byte> heap_;
  Candidate* candidates_ = nullptr;
  float* floats_ = nullptr;
};

// Logits with the largest of each block beside them.
struct Row {
  std::span<const float> logits;
  std::span<const float> block_largest;
  float largest = 0.0f;
};

Row MakeRow(const CpuContext& ctx, std::span<const float> logits, std::span<float> block_largest) {
  const auto size = static_cast<int64_t>(logits.size());
  const float largest = OPTSERVE_SIMD_CALL(ctx.info.isa, LargestOfBlocks)(logits.data(), size, block_largest.data());
  return {logits, block_largest.first(NumRowBlocks(size)), largest};
}

// The ids of block b: [begin, end).
struct IdRange {
  size_t begin, end;
};
IdRange IdsOfBlock(size_t block, size_t num_ids) {
  return {block * kRowBlock, std::min<size_t>((block + 1) * kRowBlock, num_ids)};
}

int32_t FirstLargest(const Row& row) {
  const auto block = std::find(row.block_largest.begin(), row.block_largest.end(), row.largest);
  const auto begin = row.logits.begin() + (block - row.block_largest.begin()) * kRowBlock;
  return static_cast<int32_t>(std::find(begin, row.logits.end(), row.largest) - row.logits.begin());
}

// log_softmax(x)[id] = x[id] - largest - log_sum.
float LogProbability(const Row& row, float log_sum, int64_t id) { return (row.logits[id] - row.largest) - log_sum; }

// The best num_top ids by insertion. After the first few blocks, hardly any has one that is better than the worst kept.
void FindTop(const Row& row, float log_sum, int num_top, const RowScores& out) {
  int count = 0;
  for (size_t block = 0; block < row.block_largest.size(); ++block) {
    if (count == num_top && !(row.block_largest[block] > out.top_logprobs[count - 1])) continue;
    const IdRange ids = IdsOfBlock(block, row.logits.size());
    for (size_t id = ids.begin; id < ids.end; ++id) {
      const float logit = row.logits[id];
      if (count == num_top && !(logit > out.top_logprobs[count - 1])) continue;
      int at = count < num_top ? count++ : count - 1;
      for (; at > 0 && logit > out.top_logprobs[at - 1]; --at) {
        out.top_logprobs[at] = out.top_logprobs[at - 1];
        out.top_ids[at] = out.top_ids[at - 1];
      }
      out.top_logprobs[at] = logit;
      out.top_ids[at] = static_cast<int32_t>(id);
    }
  }
  for (int i = 0; i < count; ++i) out.top_logprobs[i] = LogProbability(row, log_sum, out.top_ids[i]);
}

// Everything that Sample and Score say about the unmodified distribution, but for the chosen token's own value. Returns
// log_sum.
float Describe(const CpuContext& ctx, const Row& row, int num_top, const RowScores& out) {
  const auto size = static_cast<int64_t>(row.logits.size());
  const float log_sum = OPTSERVE_SIMD_CALL(ctx.info.isa, LogSumExp)(row.logits.data(), size, row.largest);
  *out.finite = std::isfinite(row.largest) && std::isfinite(log_sum);
  if (*out.finite && num_top > 0) FindTop(row, log_sum, static_cast<int>(std::min<int64_t>(num_top, size)), out);
  return log_sum;
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

// Appends the candidates of one block that reach a threshold.
void CollectBlock(const Row& row, const float* weights, size_t block, std::span<const float> values, float threshold,
                  Candidate* candidates, size_t& count) {
  const IdRange ids = IdsOfBlock(block, row.logits.size());
  for (size_t id = ids.begin; id < ids.end; ++id) {
    candidates[count] = {weights[id], row.logits[id], static_cast<int32_t>(id)};
    count += values[id] >= threshold ? 1 : 0;
  }
}

// A weight that is low enough for what top-p and min-p keep of a row of this total weight, and often not much lower.
float LowestWeight(const CpuContext& ctx, std::span<const float> weights, double total, const SampleRow& how) {
  float lowest = std::numeric_limits<float>::denorm_min();
  if (how.top_p < 1.0f) {
    constexpr double kMargin = 1.00001;  // for the rounding of SumAbove
    for (float threshold = 0x1p-4f; threshold > 0x1p-40f; threshold *= 0x1p-4f) {
      const float sum = OPTSERVE_SIMD_CALL(ctx.info.isa, SumAbove)(weights.data(), std::ssize(weights), threshold);
      if (sum < kMargin * double{how.top_p} * total) continue;
      lowest = threshold;
      break;
    }
  }
  return std::max(lowest, how.min_p);  // the largest weight is 1
}

// The tokens among which KeepCandidates cuts: not many more than it keeps, unless only typical-p is asked for.
std::span<Candidate> Collect(const CpuContext& ctx, const Row& row, const RowWeights& weights, double total,
                             const SampleRow& how, const RowMemory& memory) {
  std::span<const float> values(weights.weights, row.logits.size());
  std::span<const float> block_largest(weights.largest, row.block_largest.size());
  float threshold;
  if (how.top_k > 0) {
    // The k-th best of the blocks' best is no better than the k-th best token.
    values = row.logits;
    block_largest = row.block_largest;
    const std::span<float> ranked = memory.ranked().first(block_largest.size());
    threshold = kMinusInfinity;
    if (static_cast<size_t>(how.top_k) <= ranked.size()) {
      std::copy(block_largest.begin(), block_largest.end(), ranked.begin());
      const auto kth = ranked.begin() + (how.top_k - 1);
      std::nth_element(ranked.begin(), kth, ranked.end(), std::greater<>());
      threshold = *kth;
    }
  } else {
    threshold = LowestWeight(ctx, values, total, how);
  }
  size_t count = 0;
  for (size_t block = 0; block < block_largest.size(); ++block) {
    if (block_largest[block] < threshold) continue;
    CollectBlock(row, weights.weights, block, values, threshold, memory.candidates(), count);
  }
  return {memory.candidates(), count};
}

// The id at `uniform` of the whole row: first the block, then the token in it.
int32_t DrawFromRow(std::span<const float> all, std::span<const float> block_sums, double total, double uniform) {
  const double target = uniform * total;
  double sum = 0.0;
  int32_t last = 0;
  for (size_t block = 0; block < block_sums.size(); ++block) {
    const double before = sum;
    sum += block_sums[block];
    if (sum <= target && block + 1 < block_sums.size()) continue;
    const IdRange ids = IdsOfBlock(block, all.size());
    double within = before;
    for (size_t id = ids.begin; id < ids.end; ++id) {
      if (all[id] <= 0.0f) continue;  // never drawn, also not where the target is 0
      within += all[id];
      last = static_cast<int32_t>(id);
      if (within > target) return last;
    }
    if (sum > target) return last;  // the block's sum was rounded up
  }
  // Only rounding comes here, with a target at the very end.
  for (size_t id = all.size(); id-- > 0;) {
    if (all[id] > 0.0f) return static_cast<int32_t>(id);
  }
  return last;
}

int32_t ChooseToken(const CpuContext& ctx, const Row& row, const SampleRow& how, const RowMemory& memory) {
  if (how.temperature <= 0.0f) return FirstLargest(row);
  const auto size = static_cast<int64_t>(row.logits.size());
  // Bounded, because a temperature may be so small that its inverse is not a number to multiply 0 with.
  const float scale = std::min(1.0f / how.temperature, 1e30f);
  const RowWeights weights = memory.weights();
  OPTSERVE_SIMD_CALL(ctx.info.isa, WeighRow)(row.logits.data(), size, row.largest, scale, weights);
  const std::span<const float> block_sums(weights.sums, row.block_largest.size());
  const double total = std::accumulate(block_sums.begin(), block_sums.end(), 0.0);
  const double uniform = UniformAt(how.seed, how.choice, how.position);
  if (how.top_k <= 0 && how.top_p >= 1.0f && how.min_p <= 0.0f && how.typical_p >= 1.0f) {
    return DrawFromRow({weights.weights, row.logits.size()}, block_sums, total, uniform);
  }
  const std::span<Candidate> candidates = Collect(ctx, row, weights, total, how, memory);
  return Draw(candidates.first(KeepCandidates(candidates, total, how)), uniform);
}

bool ChangesNothing(const SampleRow& row) {
  return row.counts_begin == row.counts_end && row.bias_begin == row.bias_end &&
         row.suppressed_begin == row.suppressed_end;
}

std::span<const float> LogitsOf(const TensorView& logits, int64_t r) {
  return {logits.Rows(r, 1).as<const float>(), static_cast<size_t>(logits.dims[1])};
}

void SampleOne(const CpuContext& ctx, const SampleParams& p, int64_t r, const RowMemory& memory) {
  const SampleRow& how = p.rows[r];
  const RowScores out = ScoresOf(p, r);
  const Row row = MakeRow(ctx, LogitsOf(p.logits, r), memory.largest());
  const float log_sum = Describe(ctx, row, how.num_top, out);
  int32_t& id = p.ids.as<int32_t>()[r];
  id = 0;
  *out.logprob = 0.0f;
  if (*out.finite == 0) return;

  Row allowed = row;
  if (!ChangesNothing(how)) {
    std::copy(row.logits.begin(), row.logits.end(), memory.logits().begin());
    Modify(memory.logits(), p, how);
    allowed.logits = memory.logits();
  }
  if (how.vocab_limit > 0 && how.vocab_limit < p.logits.dims[1]) {
    allowed.logits = allowed.logits.first(how.vocab_limit);
  }
  if (allowed.logits.data() != row.logits.data() || allowed.logits.size() != row.logits.size()) {
    allowed = MakeRow(ctx, allowed.logits, memory.largest());
    *out.finite = std::isfinite(allowed.largest);
    if (*out.finite == 0) return;
  }
  id = ChooseToken(ctx, allowed, how, memory);
  *out.logprob = LogProbability(row, log_sum, id);
}

// What both ops need of their tensors.
template <typename Params>
void Check(const Params& p) {
  const int64_t num_rows = p.logits.dims[0];
  OPTSERVE_CHECK(p.logits.rank == 2 && p.logits.dtype == DType::kF32 && p.logits.dims[1] > 0);
  OPTSERVE_CHECK(p.logprobs.dims[0] >= num_rows && p.finite.dims[0] >= num_rows);
  OPTSERVE_CHECK(p.top_ids.dims[0] >= num_rows && p.top_ids.dims[1] == kMaxTopLogprobs);
  OPTSERVE_CHECK(p.top_logprobs.dims[0] >= num_rows && p.top_logprobs.dims[1] == kMaxTopLogprobs);
}

}  // namespace

void Sample(const CpuContext& ctx, const SampleParams& p) {
  Check(p);
  OPTSERVE_CHECK(p.ids.dims[0] >= p.logits.dims[0]);
  ParallelFor(ctx, p.logits.dims[0], 1, [&](int64_t begin, int64_t end, int thread) {
    const RowMemory memory(ctx, thread, p.logits.dims[1]);
    for (int64_t r = begin; r < end; ++r) {
      OPTSERVE_CHECK(p.rows[r].num_top <= kMaxTopLogprobs) << "num_top " << p.rows[r].num_top << " of row " << r;
      SampleOne(ctx, p, r, memory);
    }
  });
}

void Score(const CpuContext& ctx, const ScoreParams& p) {
  Check(p);
  OPTSERVE_CHECK(p.targets.dims[0] >= p.logits.dims[0] && p.num_top <= kMaxTopLogprobs) << "num_top " << p.num_top;
  ParallelFor(ctx, p.logits.dims[0], 1, [&](int64_t begin, int64_t end, int thread) {
    const RowMemory memory(ctx, thread, p.logits.dims[1]);
    for (int64_t r = begin; r < end; ++r) {
      const int32_t target = p.targets.as<const int32_t>()[r];
      OPTSERVE_CHECK(target >= 0 && target < p.logits.dims[1]) << "target " << target;
      const RowScores out = ScoresOf(p, r);
      const Row row = MakeRow(ctx, LogitsOf(p.logits, r), memory.largest());
      const float log_sum = Describe(ctx, row, p.num_top, out);
      *out.logprob = *out.finite != 0 ? LogProbability(row, log_sum, target) : 0.0f;
    }
  });
}

}  // namespace optserve::cpu
