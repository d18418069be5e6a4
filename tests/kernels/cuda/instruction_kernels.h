#pragma once

#include <cstdint>

#include "kernels/common/cuda_context.h"
#include "kernels/common/half.h"

// Launches of kernels that do nothing but run one instruction of kernels/common/gpu.h on registers that they read from
// the device's memory and write back there: lane by lane, as the instruction sees them.

namespace optserve::instructions {

// r [32, 4] = what ldmatrix gives lane by lane, where lane l names row order[l] of rows [32, 8].
void Ldmatrix(const CudaContext& ctx, bool transposed, const uint16_t* rows, const int32_t* order, uint32_t* r);
// d += a * b. a [32, 4], b [32, 2], d [32, 4].
void MmaM16N8K16(const CudaContext& ctx, const uint32_t* a, const uint32_t* b, float* d);
// The same with a [32, 2], b [32, 2], d [32, 8].
void MmaM8N8K4(const CudaContext& ctx, bool row_b, const uint32_t* a, const uint32_t* b, float* d);

// Through shared memory, at a time two products deep: c = a * b. a [32, 32] with rows a_stride apart, b [32, 8] with
// columns b_stride apart, c [32, 8] with columns c_stride apart, of which nothing else is written. Strides of at
// most 48.
inline constexpr int kMatrixSteps = 2;
void Wmma(const CudaContext& ctx, const F16* a, int a_stride, const F16* b, int b_stride, float* c, int c_stride);

// Copies three groups of 128 pieces of 8 halves through shared memory, group by group as each has arrived; pieces with
// valid 0 arrive as zeros. from, to [3, 128, 8], valid [3, 128].
inline constexpr int kCopyGroups = 3, kCopyPieces = 128;
void CopyAsync(const CudaContext& ctx, const F16* from, const int32_t* valid, F16* to);

void ToFloats(const CudaContext& ctx, const F16* in, float* out, int64_t count);
void ToHalves(const CudaContext& ctx, const float* in, F16* out, int64_t count);

// Answers the host `rounds` times: waits until words[0] is the round, counted from 1, reads words[64], writes its
// double to words[96] and then the round to words[32]. Gives up, and writes 0xffffffff there, when the host is not
// heard of.
inline constexpr int kRequest = 0, kReply = 32, kQuestion = 64, kAnswer = 96, kWords = 128;
void PingPong(const CudaContext& ctx, uint32_t* words, int rounds);

}  // namespace optserve::instructions
