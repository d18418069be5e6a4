#include "kernels/collective/all_reduce.h"

#include "kernels/collective/peer_arena.h"
#include "kernels/common/check.h"
#include "kernels/common/cuda_context.h"
#include "kernels/common/gpu.h"
#include "kernels/norm/norm_row.cuh"

// Tries                                                                        time             on
// push, one or two hops, a block a row, flags of their own for each block      not yet measured
// pull (each rank reads the others' summands): a round trip more on NVLink     not tried
// The norm that follows is in the same launch: the sum never goes through memory again.

namespace optserve::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLooksBetweenAborts = 64;  // the word that says so is in the host's memory, a microsecond away

GPU_DEVICE uint32_t* FlagOf(const PeerGroup& group, int of_rank, int hop, int from_rank) {
  auto* flags = reinterpret_cast<uint32_t*>(group.arenas[of_rank]);
  return flags + (static_cast<int>(blockIdx.x) * 2 + hop) * kMaxPeers + from_rank;
}
GPU_DEVICE uint32_t* EpochOf(const PeerGroup& group) {
  return reinterpret_cast<uint32_t*>(group.arenas[group.rank] + kPeerFlagBytes) + blockIdx.x;
}
GPU_DEVICE float* RegionOf(const PeerGroup& group, int of_rank, uint32_t epoch) {
  auto* regions = reinterpret_cast<float*>(group.arenas[of_rank] + kPeerHeaderBytes);
  return regions + (int64_t{blockIdx.x} * 2 + (epoch & 1u)) * group.region_floats;
}

// Everybody begins with another peer, so that no link gets all of it at a time.
GPU_DEVICE int Peer(const PeerGroup& group, int turn) {
  const int peer = group.rank + 1 + turn;
  return peer < group.size ? peer : peer - group.size;
}

// After this, this block sees what block blockIdx.x of every rank has written before it called. False on all threads:
// the group is at its end.
GPU_DEVICE bool MeetPeers(const PeerGroup& group, int hop, uint32_t epoch) {
  __syncthreads();
  int aborted = 0;
  if (static_cast<int>(threadIdx.x) < group.size) {
    const int peer = threadIdx.x;
    gpu::StoreRelease(FlagOf(group, peer, hop, group.rank), epoch);
    // A peer may be one ahead; counted so that it holds beyond 2^32.
    const uint32_t* flag = FlagOf(group, group.rank, hop, peer);
    for (int looks = 1; static_cast<int32_t>(gpu::LoadAcquire(flag) - epoch) < 0; ++looks) {
      if (looks % kLooksBetweenAborts == 0 && gpu::LoadAcquire(group.abort) != 0) {
        aborted = 1;
        break;
      }
      gpu::PollAgain();
    }
  }
  return __syncthreads_or(aborted) == 0;
}

// The sum of kCount neighbours over the ranks' slots, by a binary tree. Level l keeps the sum of 2^l ranks until the
// 2^l after them are summed, too.
template <int kCount>
GPU_DEVICE void TreeSum(const float* slots, int64_t stride, int size, float (&sum)[kCount]) {
  constexpr int kLevels = 5;
  float level[kLevels][kCount] = {};
#pragma unroll
  for (int r = 0; r < kMaxPeers; ++r) {
    if (r >= size) continue;
    float value[kCount];
    gpu::LoadFloats(slots + r * stride, value);
    int l = 0;
#pragma unroll
    for (; l < kLevels - 1 && (r >> l & 1) != 0; ++l) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) value[i] = level[l][i] + value[i];
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) level[l][i] = value[i];
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum[i] = 0.0f;
  bool first = true;
#pragma unroll
  for (int l = 0; l < kLevels; ++l) {
    if ((size >> l & 1) == 0) continue;
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum[i] = first ? level[l][i] : level[l][i] + sum[i];
    first = false;
  }
}

// This rank's row into its slot of every rank's region.
template <int kCount>
GPU_DEVICE void PushToAll(const PeerGroup& group, uint32_t epoch, const float* row, int width, int64_t slot) {
  for (int i = threadIdx.x * kCount; i < width; i += kThreads * kCount) {
    float value[kCount];
    gpu::LoadFloats(row + i, value);
    for (int turn = 0; turn < group.size; ++turn) {
      gpu::StoreFloats(RegionOf(group, Peer(group, turn), epoch) + group.rank * slot + i, value);
    }
  }
}

// The first of two hops: slice s of this rank's row goes to rank s, which sums it and sends the sum to all.
template <int kCount>
GPU_DEVICE bool SumOwnSlice(const PeerGroup& group, uint32_t epoch, const float* row, int width, int slice) {
  for (int j = threadIdx.x * kCount; j < group.size * slice; j += kThreads * kCount) {
    const int turn = j / slice, peer = Peer(group, turn), in_slice = j - turn * slice, i = peer * slice + in_slice;
    if (i >= width) continue;
    float value[kCount];
    gpu::LoadFloats(row + i, value);
    gpu::StoreFloats(RegionOf(group, peer, epoch) + group.rank * slice + in_slice, value);
  }
  if (!MeetPeers(group, 0, epoch)) return false;
  const float* slots = RegionOf(group, group.rank, epoch);
  for (int j = threadIdx.x * kCount; j < slice; j += kThreads * kCount) {
    const int i = group.rank * slice + j;
    if (i >= width) continue;
    float sum[kCount];
    TreeSum<kCount>(slots + j, slice, group.size, sum);
    for (int turn = 0; turn < group.size; ++turn) {
      gpu::StoreFloats(RegionOf(group, Peer(group, turn), epoch) + group.size * slice + i, sum);
    }
  }
  return MeetPeers(group, 1, epoch);
}

struct AllReduceJob {
  PeerGroup group;
  const float* in;
  int64_t rows, width, last_width, stride;  // the last row may be shorter
  bool two_shot;
  float* out;  // the sum, as `in`; or null: into the norm
  NormJob norm;
};

GPU_DEVICE void CountArrival(const PeerGroup& group) {
  if (blockIdx.x == 0 && threadIdx.x == 0) gpu::StoreRelease(group.arrivals, *group.arrivals + 1);
}

// All threads have read the count: every block of a launch has had a row, and with it MeetPeers' barriers.
GPU_DEVICE void CountCalls(const PeerGroup& group, uint32_t epoch) {
  if (threadIdx.x == 0) *EpochOf(group) = epoch;
}

// A row a block and turn. kCount: elements that a thread moves at a time.
template <int kCount>
__global__ void __launch_bounds__(kThreads, 2) AllReduceKernel(AllReduceJob job) {
  GPU_SHARED(float, sums, [kThreads / 32]);
  GPU_DYNAMIC_SHARED(float, row);  // [width], with a norm only
  const PeerGroup& group = job.group;
  uint32_t epoch = *EpochOf(group);
  CountArrival(group);
  for (int64_t r = blockIdx.x; r < job.rows; r += gridDim.x) {
    ++epoch;
    const int width = static_cast<int>(r + 1 < job.rows ? job.width : job.last_width);
    const float* in = job.in + r * job.stride;
    const float* region = RegionOf(group, group.rank, epoch);
    const int64_t slot = (width + 3) / 4 * 4;
    const int slice = static_cast<int>(PeerSlice(width, group.size));
    if (job.two_shot) {
      if (!SumOwnSlice<kCount>(group, epoch, in, width, slice)) return;
    } else {
      PushToAll<kCount>(group, epoch, in, width, slot);
      if (!MeetPeers(group, 0, epoch)) return;
    }
    const auto sum_at = [&](int64_t i) {
      if (job.two_shot) return region[group.size * slice + i];
      float sum[1];
      TreeSum<1>(region + i, slot, group.size, sum);
      return sum[0];
    };
    if (job.out != nullptr) {
      for (int i = threadIdx.x; i < width; i += kThreads) job.out[r * job.stride + i] = sum_at(i);
    } else {
      NormRow<kThreads>(job.norm, r, row, sums, sum_at);
    }
  }
  CountCalls(group, epoch);
}

// A piece of the shard a block and turn.
template <int kCount>
__global__ void __launch_bounds__(kThreads, 2)
    AllGatherKernel(PeerGroup group, const float* shard, float* all, int64_t num_elements, int64_t piece) {
  uint32_t epoch = *EpochOf(group);
  CountArrival(group);
  for (int64_t begin = blockIdx.x * piece; begin < num_elements; begin += gridDim.x * piece) {
    ++epoch;
    const int width = static_cast<int>(begin + piece < num_elements ? piece : num_elements - begin);
    PushToAll<kCount>(group, epoch, shard + begin, width, piece);
    if (!MeetPeers(group, 0, epoch)) return;
    const float* region = RegionOf(group, group.rank, epoch);
    for (int rank = 0; rank < group.size; ++rank) {
      for (int i = threadIdx.x * kCount; i < width; i += kThreads * kCount) {
        float value[kCount];
        gpu::LoadFloats(region + rank * piece + i, value);
        gpu::StoreFloats(all + rank * num_elements + begin + i, value);
      }
    }
  }
  CountCalls(group, epoch);
}

// In two hops.
bool Fits(const PeerGroup& group, int64_t width) {
  return PeerSlice(width, group.size) * group.size + width <= group.region_floats;
}

bool CanVector(const void* data, int64_t n) { return reinterpret_cast<uintptr_t>(data) % 16 == 0 && n % 4 == 0; }

void Run(const CudaContext& ctx, const AllReduceJob& job, const AllReducePlan& plan) {
  const bool vector = CanVector(job.in, job.width | job.last_width | job.stride);
  const size_t shared = job.out == nullptr ? static_cast<size_t>(job.width) * sizeof(float) : 0;
  gpu::Launch(vector ? AllReduceKernel<4> : AllReduceKernel<1>, dim3(static_cast<unsigned>(plan.blocks)),
              dim3(kThreads), shared, ctx.stream, job);
}

}  // namespace

void AllReduce(const CudaContext& ctx, const PeerGroup& group, AllReduceVariant variant, const TensorView& inout) {
  OPTSERVE_CHECK(inout.dtype == DType::kF32 && inout.is_contiguous());
  const int64_t n = inout.num_elements();
  if (n == 0) return;
  // Rows where they fit; else the tensor in pieces that do.
  const int64_t most = (group.region_floats - 4 * kMaxPeers) / 2 / 4 * 4;
  const int64_t width = inout.rank >= 2 && Fits(group, inout.row_size()) ? inout.row_size() : n < most ? n : most;
  const int64_t rows = CeilDiv(n, width);
  AllReduceJob job{};
  job.group = group;
  job.in = job.out = inout.as<float>();
  job.rows = rows;
  job.width = job.stride = width;
  job.last_width = n - (rows - 1) * width;
  const AllReducePlan plan = PlanAllReduce(group, rows, width, variant);
  job.two_shot = plan.two_shot;
  Run(ctx, job, plan);
}

void AllReduceAddNorm(const CudaContext& ctx, const PeerGroup& group, AllReduceVariant variant,
                      const AddBiasResidualParams& add, const LayerNormParams* norm) {
  AllReduceJob job{};
  if (norm != nullptr) {
    OPTSERVE_CHECK(norm->x.data == add.x.data && norm->x.dims == add.x.dims);
    SetNorm(*norm, job.norm);
  }
  SetResidual(add, job.norm);
  job.group = group;
  job.in = add.partial.as<const float>();
  job.rows = add.partial.dims[0];
  job.width = job.last_width = add.partial.dims[1];
  job.stride = add.partial.row_stride;
  if (job.rows == 0) return;
  const AllReducePlan plan = PlanAllReduce(group, job.rows, job.width, variant);
  OPTSERVE_CHECK(Fits(group, job.width)) << "rows of " << job.width;
  job.two_shot = plan.two_shot;
  Run(ctx, job, plan);
}

void AllGather(const CudaContext& ctx, const PeerGroup& group, const TensorView& shard, const TensorView& all) {
  OPTSERVE_CHECK(shard.dtype == all.dtype && SizeOf(shard.dtype) == sizeof(float));
  OPTSERVE_CHECK(shard.is_contiguous() && all.is_contiguous());
  const int64_t n = shard.num_elements();
  OPTSERVE_CHECK(all.num_elements() == n * group.size);
  if (n == 0) return;
  const int64_t piece = group.region_floats / group.size / 4 * 4;
  const auto blocks =
      static_cast<unsigned>(CeilDiv(n, piece) < group.max_blocks ? CeilDiv(n, piece) : group.max_blocks);
  const bool vector = CanVector(shard.data, n) && CanVector(all.data, n);
  gpu::Launch(vector ? AllGatherKernel<4> : AllGatherKernel<1>, dim3(blocks), dim3(kThreads), 0, ctx.stream, group,
              shard.as<const float>(), all.as<float>(), n, piece);
}

}  // namespace optserve::cuda
