#include "kernels/sampling/sampling.h"

#include <algorithm>

#include "kernels/common/check.h"
#include "kernels/common/cuda_context.h"
#include "kernels/common/gpu.h"
#include "kernels/sampling/philox.h"
#include "kernels/sampling/select_prefix.cuh"

// Tries                                                                     time             on
// one block of 512 threads a row; cuts by radix selection, seven passes     not yet measured
//   over the row (from the L2 cache) each
// several blocks a row                                                      not yet tried: helps at batch 1 alone
//
// Probability mass is counted in units of 2^-44 of the most likely token's, as integers: sums have no order, a draw is
// exact, and what is rarer than a unit is never drawn.

namespace optserve::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr float kMassUnits = 0x1p44f;

struct Outputs {
  float* logprob;
  int32_t* top_ids;
  float* top_logprobs;
  int32_t* finite;
};

struct Scratch {
  SelectScratch select;
  Amount amounts[kWarps];
  double doubles[kWarps];
  float floats[kWarps];
  int32_t top_ids[kMaxTopLogprobs];
  int32_t top_count;
};

// The largest logit and the lowest id that has it, in one number.
GPU_DEVICE Amount FindLargest(const float* logits, int size, Scratch& scratch) {
  Amount best = 0;
  for (int id = threadIdx.x; id < size; id += kThreads) {
    const Amount own = Amount{OrderedKey(logits[id])} << 32 | (0xffffffffu - static_cast<uint32_t>(id));
    best = own > best ? own : best;
  }
  return BlockCombine<kThreads>(
      best, [](Amount a, Amount b) { return a > b ? a : b; }, scratch.amounts);
}
GPU_DEVICE int IdOf(Amount largest) { return static_cast<int>(0xffffffffu - static_cast<uint32_t>(largest)); }

// Whether a NaN or +Inf is among them; on all threads.
GPU_DEVICE bool HasBad(const float* logits, int size) {
  int bad = 0;
  for (int id = threadIdx.x; id < size; id += kThreads) bad |= !(logits[id] < INFINITY) ? 1 : 0;
  return __syncthreads_or(bad) != 0;
}

// What Sample and Score say about the unmodified distribution. Returns whether the row is finite; then
// log_softmax(x)[id] = x[id] - largest - log_sum.
struct Described {
  bool finite;
  float largest, log_sum;
};
GPU_DEVICE Described Describe(const float* logits, int size, int num_top, const Outputs& out, Scratch& scratch) {
  const bool bad = HasBad(logits, size);
  const float largest = logits[IdOf(FindLargest(logits, size, scratch))];
  if (bad || !(largest > -INFINITY)) return {false, 0.0f, 0.0f};
  float sum = 0.0f;
  for (int id = threadIdx.x; id < size; id += kThreads) sum += expf(logits[id] - largest);
  const float log_sum = logf(gpu::BlockSum<kWarps>(sum, scratch.floats));
  num_top = min(num_top, size);
  if (num_top > 0) {
    const auto key_of = [&](int id) { return OrderedKey(logits[id]); };
    const Prefix best = SelectPrefix<kThreads>(
        size, key_of, [](int) { return Amount{1}; }, static_cast<Amount>(num_top), scratch.select);
    if (threadIdx.x == 0) scratch.top_count = 0;
    __syncthreads();
    for (int id = threadIdx.x; id < size; id += kThreads) {
      if (best.Holds(key_of(id), id)) scratch.top_ids[atomicAdd(&scratch.top_count, 1)] = id;
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < num_top) {
      const int id = scratch.top_ids[threadIdx.x];
      int rank = 0;
      for (int i = 0; i < num_top; ++i) {
        const int other = scratch.top_ids[i];
        if (logits[other] > logits[id] || (logits[other] == logits[id] && other < id)) ++rank;
      }
      out.top_ids[rank] = id;
      out.top_logprobs[rank] = (logits[id] - largest) - log_sum;
    }
  }
  return {true, largest, log_sum};
}

struct SampleJob {
  const float* logits;
  int64_t stride;
  int size;
  const SampleRow* rows;
  const TokenCount* counts;
  const LogitBias* bias;
  const int32_t* suppressed;
  int32_t* ids;
  float* logprobs;
  int32_t* top_ids;
  float* top_logprobs;
  int32_t* finite;
  float* modified;  // [rows of the launch, size]
  int first_row;
};

// Penalties, bias and suppression, in the order of SampleRow's comment. A barrier between them, because an id may be in
// several lists; of an id that is twice in one list, the first entry's thread does all.
GPU_DEVICE void Modify(const SampleJob& job, const SampleRow& row, float* logits) {
  for (int i = row.counts_begin + threadIdx.x; i < row.counts_end; i += kThreads) {
    const TokenCount seen = job.counts[i];
    if (seen.id < 0 || seen.id >= job.size) continue;
    float logit = logits[seen.id];
    logit = logit > 0.0f ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    if (seen.generated > 0) {
      logit -= row.presence_penalty + row.frequency_penalty * static_cast<float>(seen.generated);
    }
    logits[seen.id] = logit;
  }
  __syncthreads();
  for (int i = row.bias_begin + threadIdx.x; i < row.bias_end; i += kThreads) {
    const int id = job.bias[i].id;
    bool first = id >= 0 && id < job.size;
    for (int j = row.bias_begin; j < i; ++j) first = first && job.bias[j].id != id;
    if (!first) continue;
    float logit = logits[id];
    for (int j = i; j < row.bias_end; ++j) logit += job.bias[j].id == id ? job.bias[j].bias : 0.0f;
    logits[id] = logit;
  }
  __syncthreads();
  for (int i = row.suppressed_begin + threadIdx.x; i < row.suppressed_end; i += kThreads) {
    const int id = job.suppressed[i];
    bool first = id >= 0 && id < job.size;
    for (int j = row.suppressed_begin; j < i; ++j) first = first && job.suppressed[j] != id;
    if (first) logits[id] = -INFINITY;
  }
  __syncthreads();
}

// The tokens that are left, and what each weighs.
class Weighed {
 public:
  __device__ Weighed(const float* logits, int size, float largest, float scale)
      : logits_(logits), size_(size), largest_(largest), scale_(scale) {}

  __device__ uint32_t Key(int id) const { return OrderedKey(logits_[id]); }
  __device__ float Exponent(int id) const { return (logits_[id] - largest_) * scale_; }
  __device__ Amount Mass(int id) const { return static_cast<Amount>(expf(Exponent(id)) * kMassUnits); }
  __device__ bool Kept(int id) const { return best_.Holds(Key(id), id) && expf(Exponent(id)) >= min_weight_; }
  // Less surprise than the entropy, or more, is as bad: Meister et al. 2022.
  __device__ uint32_t TypicalKey(int id) const { return ~__float_as_uint(fabsf(log_total_ - Exponent(id) - entropy_)); }
  __device__ Amount KeptMass(int id) const {
    if (!Kept(id)) return 0;
    return typical_ && !most_typical_.Holds(TypicalKey(id), id) ? 0 : Mass(id);
  }

  __device__ Amount Total(Scratch& scratch) const {
    Amount sum = 0;
    for (int id = threadIdx.x; id < size_; id += kThreads) sum += KeptMass(id);
    return BlockCombine<kThreads>(
        sum, [](Amount a, Amount b) { return a + b; }, scratch.amounts);
  }

  __device__ void CutTopK(int k, Scratch& scratch) {
    best_ = SelectPrefix<kThreads>(
        size_, [&](int id) { return Key(id); }, [](int) { return Amount{1}; }, static_cast<Amount>(k), scratch.select);
  }
  __device__ void CutTopP(float p, Scratch& scratch) {
    const Amount target = Share(p, scratch);
    // The target is less than the mass that top-k left, so that the cut lies within it.
    best_ = SelectPrefix<kThreads>(
        size_, [&](int id) { return Key(id); }, [&](int id) { return KeptMass(id); }, target, scratch.select);
  }
  __device__ void CutMinP(float p) { min_weight_ = p; }  // the most likely token's weight is 1
  __device__ void CutTypicalP(float p, Scratch& scratch) {
    const double total = static_cast<double>(Total(scratch)) / kMassUnits;
    const double log_total = log(total);
    double entropy = 0.0;
    for (int id = threadIdx.x; id < size_; id += kThreads) {
      const double weight = KeptMass(id) > 0 ? exp(static_cast<double>(Exponent(id))) : 0.0;
      if (weight > 0.0) entropy += weight / total * (log_total - static_cast<double>(Exponent(id)));
    }
    entropy = BlockCombine<kThreads>(
        entropy, [](double a, double b) { return a + b; }, scratch.doubles);
    log_total_ = static_cast<float>(log_total);
    entropy_ = static_cast<float>(entropy);
    const Amount target = Share(p, scratch);
    most_typical_ = SelectPrefix<kThreads>(
        size_, [&](int id) { return TypicalKey(id); }, [&](int id) { return KeptMass(id); }, target, scratch.select);
    typical_ = true;
  }
  // By inverse transform in id order.
  __device__ int Draw(double uniform, Scratch& scratch) const {
    const Amount total = Total(scratch);
    const Amount at = static_cast<Amount>(uniform * static_cast<double>(total)) + 1;
    return SelectId<kThreads>(
        size_, [&](int id) { return KeptMass(id); }, at < total ? at : total, scratch.select);
  }

 private:
  // The least mass that is p of what is left; at least one unit, so that one token stays.
  __device__ Amount Share(float p, Scratch& scratch) const {
    const Amount share = static_cast<Amount>(ceil(static_cast<double>(p) * static_cast<double>(Total(scratch))));
    return share > 0 ? share : 1;
  }

  const float* logits_;
  int size_;
  float largest_, scale_;
  Prefix best_;
  float min_weight_ = 0.0f;
  bool typical_ = false;
  Prefix most_typical_;
  float log_total_ = 0.0f, entropy_ = 0.0f;
};

GPU_DEVICE int ChooseToken(const float* logits, int size, int best, const SampleRow& row, Scratch& scratch) {
  if (row.temperature <= 0.0f) return best;
  // Bounded, because a temperature may be so small that its inverse is not a number to multiply 0 with.
  Weighed weighed(logits, size, logits[best], fminf(1.0f / row.temperature, 1e30f));
  if (row.top_k > 0 && row.top_k < size) weighed.CutTopK(row.top_k, scratch);
  if (row.top_p < 1.0f) weighed.CutTopP(row.top_p, scratch);
  if (row.min_p > 0.0f) weighed.CutMinP(row.min_p);
  if (row.typical_p < 1.0f) weighed.CutTypicalP(row.typical_p, scratch);
  return weighed.Draw(UniformAt(row.seed, row.choice, row.position), scratch);
}

__global__ void __launch_bounds__(kThreads) SampleKernel(SampleJob job) {
  GPU_SHARED(Scratch, scratch_memory, [1]);
  Scratch& scratch = scratch_memory[0];
  const int r = job.first_row + static_cast<int>(blockIdx.x);
  const SampleRow row = job.rows[r];
  const float* logits = job.logits + r * job.stride;
  const Outputs out{job.logprobs + r, job.top_ids + int64_t{r} * kMaxTopLogprobs,
                    job.top_logprobs + int64_t{r} * kMaxTopLogprobs, job.finite + r};
  const Described described = Describe(logits, job.size, row.num_top, out, scratch);

  const float* allowed = logits;
  const int size = row.vocab_limit > 0 ? min(row.vocab_limit, job.size) : job.size;
  bool finite = described.finite;
  int id = 0;
  if (finite) {  // the same on all threads
    if (row.counts_end > row.counts_begin || row.bias_end > row.bias_begin ||
        row.suppressed_end > row.suppressed_begin) {
      float* modified = job.modified + int64_t{blockIdx.x} * job.size;
      for (int i = threadIdx.x; i < job.size; i += kThreads) modified[i] = logits[i];
      __syncthreads();
      Modify(job, row, modified);
      allowed = modified;
      finite = !HasBad(allowed, size);
    }
    const int best = IdOf(FindLargest(allowed, size, scratch));
    finite = finite && allowed[best] > -INFINITY;
    if (finite) id = ChooseToken(allowed, size, best, row, scratch);
  }
  if (threadIdx.x != 0) return;
  job.ids[r] = id;
  *out.logprob = finite ? (logits[id] - described.largest) - described.log_sum : 0.0f;
  *out.finite = finite ? 1 : 0;
}

struct ScoreJob {
  const float* logits;
  int64_t stride;
  int size;
  const int32_t* targets;
  int num_top;
  float* logprobs;
  int32_t* top_ids;
  float* top_logprobs;
  int32_t* finite;
};

__global__ void __launch_bounds__(kThreads) ScoreKernel(ScoreJob job) {
  GPU_SHARED(Scratch, scratch_memory, [1]);
  const int64_t r = blockIdx.x;
  const float* logits = job.logits + r * job.stride;
  const Outputs out{job.logprobs + r, job.top_ids + r * kMaxTopLogprobs, job.top_logprobs + r * kMaxTopLogprobs,
                    job.finite + r};
  const Described described = Describe(logits, job.size, job.num_top, out, scratch_memory[0]);
  if (threadIdx.x != 0) return;
  const int target = job.targets[r];
  const bool finite = described.finite && target >= 0 && target < job.size;
  *out.logprob = finite ? (logits[target] - described.largest) - described.log_sum : 0.0f;
  *out.finite = finite ? 1 : 0;
}

// What both ops need of their tensors.
template <typename Params>
void Check(const Params& p) {
  const int64_t num_rows = p.logits.dims[0];
  OPTSERVE_CHECK(p.logits.rank == 2 && p.logits.dtype == DType::kF32 && p.logits.dims[1] > 0);
  OPTSERVE_CHECK(p.logits.dims[1] <= 1 << 24) << "a vocabulary of " << p.logits.dims[1];
  OPTSERVE_CHECK(p.logprobs.dims[0] >= num_rows && p.finite.dims[0] >= num_rows);
  OPTSERVE_CHECK(p.top_ids.dims[0] >= num_rows && p.top_ids.dims[1] == kMaxTopLogprobs);
  OPTSERVE_CHECK(p.top_logprobs.dims[0] >= num_rows && p.top_logprobs.dims[1] == kMaxTopLogprobs);
}

}  // namespace

void Sample(const CudaContext& ctx, const SampleParams& p) {
  Check(p);
  OPTSERVE_CHECK(p.ids.dims[0] >= p.logits.dims[0]);
  SampleJob job{.logits = p.logits.as<const float>(),
                .stride = p.logits.row_stride,
                .size = static_cast<int>(p.logits.dims[1]),
                .rows = p.rows,
                .counts = p.counts,
                .bias = p.bias,
                .suppressed = p.suppressed,
                .ids = p.ids.as<int32_t>(),
                .logprobs = p.logprobs.as<float>(),
                .top_ids = p.top_ids.as<int32_t>(),
                .top_logprobs = p.top_logprobs.as<float>(),
                .finite = p.finite.as<int32_t>(),
                .modified = reinterpret_cast<float*>(ctx.workspace),
                .first_row = 0};
  const auto at_once = static_cast<int64_t>(ctx.workspace_bytes / (static_cast<size_t>(job.size) * sizeof(float)));
  OPTSERVE_CHECK(at_once > 0) << "a workspace of " << ctx.workspace_bytes << " bytes for a vocabulary of " << job.size;
  for (int64_t row = 0; row < p.logits.dims[0]; row += at_once) {
    job.first_row = static_cast<int>(row);
    gpu::Launch(SampleKernel, dim3(static_cast<unsigned>(std::min(at_once, p.logits.dims[0] - row))), dim3(kThreads), 0,
                ctx.stream, job);
  }
}

void Score(const CudaContext& ctx, const ScoreParams& p) {
  Check(p);
  OPTSERVE_CHECK(p.targets.dims[0] >= p.logits.dims[0] && p.num_top <= kMaxTopLogprobs) << "num_top " << p.num_top;
  if (p.logits.dims[0] == 0) return;
  gpu::Launch(ScoreKernel, dim3(static_cast<unsigned>(p.logits.dims[0])), dim3(kThreads), 0, ctx.stream,
              ScoreJob{.logits = p.logits.as<const float>(),
                       .stride = p.logits.row_stride,
                       .size = static_cast<int>(p.logits.dims[1]),
                       .targets = p.targets.as<const int32_t>(),
                       .num_top = p.num_top,
                       .logprobs = p.logprobs.as<float>(),
                       .top_ids = p.top_ids.as<int32_t>(),
                       .top_logprobs = p.top_logprobs.as<float>(),
                       .finite = p.finite.as<int32_t>()});
}

}  // namespace optserve::cuda
