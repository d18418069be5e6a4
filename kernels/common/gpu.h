#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/common/half.h"

// The only CUDA header that kernels include. Under nvcc it is the toolkit; elsewhere the emulator of
// tests/cuda_emulator, so that every kernel's logic runs on a CPU in CI.
//
// Rules for .cu files, which keep both readings the same:
//   - GPU_SHARED(float, sums, [8]) and GPU_DYNAMIC_SHARED(F16, tile) in place of __shared__, Launch() in place of
//   <<<>>>;
//   - no asm: instructions without a name in CUDA C++ are wrapped here, with PTX and with an emulation;
//   - no #if __CUDA_ARCH__: variants are template parameters, chosen by a plan function on the host;
//   - warps leave a kernel as a whole, and never before a barrier that others wait at.

#if defined(__CUDACC__)

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <mma.h>

#define GPU_SHARED(T, name, dims) __shared__ T name dims
#define GPU_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(32) unsigned char gpu_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(gpu_dynamic_shared)

namespace optserve::gpu {

using Stream = cudaStream_t;

// Errors show at the stream's synchronisation, but for those of the launch itself, which the device reports next.
template <typename... Params, typename... Args>
void Launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void* stream, Args&&... args) {
  if (shared_bytes > 48 * 1024) {
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(shared_bytes));
  }
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(
      static_cast<Params>(std::forward<Args>(args))...);
}

}  // namespace optserve::gpu

#else

#include <tuple>
#include <type_traits>

#include "tests/cuda_emulator/emulator.h"

#define GPU_SHARED(T, name, dims) \
  static char name##_key;         \
  using name##_array = T dims;    \
  auto& name = *static_cast<name##_array*>(::optserve::emulator::StaticShared(&name##_key, sizeof(name##_array), #name))
#define GPU_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::optserve::emulator::DynamicShared())

namespace optserve::gpu {

template <typename... Params, typename... Args>
void Launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void* stream, Args&&... args) {
  struct Closure {
    void (*kernel)(Params...);
    std::tuple<std::decay_t<Params>...> args;
  } closure{kernel, {static_cast<Params>(std::forward<Args>(args))...}};
  const auto run_thread = [](void* p) {
    auto* c = static_cast<Closure*>(p);
    std::apply(c->kernel, c->args);
  };
  emulator::Queue(stream, reinterpret_cast<const void*>(kernel), [=]() mutable {
    emulator::RunGrid(grid, block, shared_bytes, run_thread, &closure, sizeof(closure));
  });
}

}  // namespace optserve::gpu

#endif

namespace optserve::gpu {

#define GPU_DEVICE static __device__ __forceinline__

constexpr unsigned kAllLanes = 0xffffffffu;

// ---------------------------------------------------------------- instructions without a name

#if defined(__CUDACC__)

#if defined(__CUDA_ARCH__)
#define GPU_ASM(...) asm volatile(__VA_ARGS__)
#else
#define GPU_ASM(...) static_cast<void>(0)
#endif

GPU_DEVICE float ToFloat(F16 x) { return __half2float(__ushort_as_half(x.bits)); }
GPU_DEVICE F16 ToHalf(float x) { return {__half_as_ushort(__float2half_rn(x))}; }

GPU_DEVICE unsigned SharedAddress(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// Four 8 x 8 matrices of halves; lane 8 j + i says where row i of matrix j lies, 16-byte aligned. From sm_75.
GPU_DEVICE void LdmatrixX4(uint32_t (&r)[4], const void* row) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 750
  GPU_ASM("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
          : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
          : "r"(SharedAddress(row))
          : "memory");
#else
  __trap();  // the plan never chooses this variant there
#endif
}
GPU_DEVICE void LdmatrixX4Transposed(uint32_t (&r)[4], const void* row) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 750
  GPU_ASM("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
          : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
          : "r"(SharedAddress(row))
          : "memory");
#else
  __trap();  // the plan never chooses this variant there
#endif
}

// d += a * b, f16 in, f32 sums. On sm_75 two steps of half the depth.
GPU_DEVICE void MmaM16N8K16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  GPU_ASM("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 750
  GPU_ASM("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[0]), "r"(a[1]), "r"(b[0]));
  GPU_ASM("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#elif defined(__CUDA_ARCH__)
  __trap();  // the plan never chooses this variant there
#endif
}

// Four products of 8 x 4 and 4 x 8, one for each pair of quads: the tensor cores' own shape on sm_70.
GPU_DEVICE void MmaM8N8K4ColB(float (&d)[8], const uint32_t (&a)[2], const uint32_t (&b)[2]) {
  GPU_ASM(
      "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9}, {%10,%11}, "
      "{%0,%1,%2,%3,%4,%5,%6,%7};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
      : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(b[1]));
}
GPU_DEVICE void MmaM8N8K4RowB(float (&d)[8], const uint32_t (&a)[2], const uint32_t (&b)[2]) {
  GPU_ASM(
      "mma.sync.aligned.m8n8k4.row.row.f32.f16.f16.f32 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9}, {%10,%11}, "
      "{%0,%1,%2,%3,%4,%5,%6,%7};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
      : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(b[1]));
}

// WMMA, from sm_70: c [32, 8] += a [32, 16] * b [16, 8], f16 in, f32 sums, held by a warp in a way that is the
// machine's own affair. In memory rows of a and columns of b and c are contiguous and `stride` elements apart.
// Addresses are multiples of 32 bytes, strides of 16.
constexpr int kMatrixDepth = 16;
struct MatrixA {
  nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 32, 8, kMatrixDepth, __half, nvcuda::wmma::row_major> of_warp;
};
struct MatrixB {
  nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 32, 8, kMatrixDepth, __half, nvcuda::wmma::col_major> of_warp;
};
struct MatrixC {
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 32, 8, kMatrixDepth, float> of_warp;
};
template <typename Matrix>
GPU_DEVICE void LoadMatrix(Matrix& m, const F16* from, int stride) {
  nvcuda::wmma::load_matrix_sync(m.of_warp, reinterpret_cast<const __half*>(from), static_cast<unsigned>(stride));
}
GPU_DEVICE void ClearMatrix(MatrixC& c) { nvcuda::wmma::fill_fragment(c.of_warp, 0.0f); }
GPU_DEVICE void MultiplyAdd(MatrixC& c, const MatrixA& a, const MatrixB& b) {
  nvcuda::wmma::mma_sync(c.of_warp, a.of_warp, b.of_warp, c.of_warp);
}
GPU_DEVICE void StoreMatrix(float* to, const MatrixC& c, int stride) {
  nvcuda::wmma::store_matrix_sync(to, c.of_warp, static_cast<unsigned>(stride), nvcuda::wmma::mem_col_major);
}

// 16 bytes from global to shared memory, zeros if not valid; seen after CopyAsyncWait and a barrier. Before sm_80 an
// ordinary copy.
GPU_DEVICE void CopyAsync16(void* dst, const void* src, bool valid) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  GPU_ASM("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(dst)), "l"(src), "r"(valid ? 16 : 0)
          : "memory");
#else
  *static_cast<uint4*>(dst) = valid ? *static_cast<const uint4*>(src) : make_uint4(0, 0, 0, 0);
#endif
}
GPU_DEVICE void CopyAsyncCommit() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  GPU_ASM("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kGroupsLeft>
GPU_DEVICE void CopyAsyncWait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  GPU_ASM("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
#endif
}

// Words through which GPUs and the host speak. Whoever reads the stored value sees what the storing thread wrote
// before, and what others of its block wrote before a barrier.
GPU_DEVICE void StoreRelease(uint32_t* at, uint32_t value) {
  GPU_ASM("st.release.sys.global.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
}
GPU_DEVICE uint32_t LoadAcquire(const uint32_t* at) {
  uint32_t value = 0;
  GPU_ASM("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
  return value;
}
// Between two looks at such a word.
GPU_DEVICE void PollAgain() {}

#else

inline float ToFloat(F16 x) { return ToF32(x); }
// To nearest, ties to even.
inline F16 ToHalf(float x) {
  const _Float16 half = static_cast<_Float16>(x);
  F16 result;
  std::memcpy(&result.bits, &half, 2);
  return result;
}

inline void LdmatrixX4(uint32_t (&r)[4], const void* row, OPTSERVE_PLACE) {
  emulator::LdmatrixArgument argument{r, row};
  emulator::CheckAccess(row, 16, false);
  emulator::Collective("ldmatrix", ~0u, &argument, emulator::LdmatrixX4<false>, false, place);
}
inline void LdmatrixX4Transposed(uint32_t (&r)[4], const void* row, OPTSERVE_PLACE) {
  emulator::LdmatrixArgument argument{r, row};
  emulator::CheckAccess(row, 16, false);
  emulator::Collective("ldmatrix.trans", ~0u, &argument, emulator::LdmatrixX4<true>, false, place);
}
inline void MmaM16N8K16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], OPTSERVE_PLACE) {
  emulator::MmaArgument argument{d, a, b};
  emulator::Collective("mma.m16n8k16", ~0u, &argument, emulator::MmaM16N8K16, false, place);
}
inline void MmaM8N8K4ColB(float (&d)[8], const uint32_t (&a)[2], const uint32_t (&b)[2], OPTSERVE_PLACE) {
  emulator::MmaArgument argument{d, a, b};
  emulator::Collective("mma.m8n8k4.row.col", ~0u, &argument, emulator::MmaM8N8K4<false>, false, place);
}
inline void MmaM8N8K4RowB(float (&d)[8], const uint32_t (&a)[2], const uint32_t (&b)[2], OPTSERVE_PLACE) {
  emulator::MmaArgument argument{d, a, b};
  emulator::Collective("mma.m8n8k4.row.row", ~0u, &argument, emulator::MmaM8N8K4<true>, false, place);
}
constexpr int kMatrixDepth = 16;
struct MatrixA {
  F16 of_lane[16];  // row l of lane l
};
struct MatrixB {
  F16 of_lane[4];  // quarter l % 4 of column l / 4
};
struct MatrixC {
  float of_lane[8];  // row l; NaN until it is cleared
  MatrixC() { std::memset(of_lane, 0xff, sizeof(of_lane)); }
};
inline void LoadMatrix(MatrixA& a, const F16* from, int stride, OPTSERVE_PLACE) {
  emulator::UseMatrix("wmma.load.a", from, stride, sizeof(F16), place);
  const F16* own = from + emulator::current->lane * stride;
  emulator::CheckAccess(own, sizeof(a.of_lane), false);
  std::memcpy(a.of_lane, own, sizeof(a.of_lane));
}
inline void LoadMatrix(MatrixB& b, const F16* from, int stride, OPTSERVE_PLACE) {
  emulator::UseMatrix("wmma.load.b", from, stride, sizeof(F16), place);
  const F16* own = from + emulator::current->lane / 4 * stride + emulator::current->lane % 4 * 4;
  emulator::CheckAccess(own, sizeof(b.of_lane), false);
  std::memcpy(b.of_lane, own, sizeof(b.of_lane));
}
inline void ClearMatrix(MatrixC& c) { std::memset(c.of_lane, 0, sizeof(c.of_lane)); }
inline void MultiplyAdd(MatrixC& c, const MatrixA& a, const MatrixB& b, OPTSERVE_PLACE) {
  emulator::WmmaArgument argument{c.of_lane, a.of_lane, b.of_lane};
  emulator::Collective("wmma.mma", ~0u, &argument, emulator::WmmaM32N8K16, false, place);
}
inline void StoreMatrix(float* to, const MatrixC& c, int stride, OPTSERVE_PLACE) {
  emulator::UseMatrix("wmma.store", to, stride, sizeof(float), place);
  for (int column = 0; column < 8; ++column) {
    float* own = to + column * stride + emulator::current->lane;
    emulator::CheckAccess(own, sizeof(float), true);
    *own = c.of_lane[column];
  }
}
inline void CopyAsync16(void* dst, const void* src, bool valid, OPTSERVE_PLACE) {
  emulator::AsyncCopy(dst, src, 16, valid ? 16 : 0, place);
}
inline void CopyAsyncCommit() { emulator::AsyncCopyCommit(); }
template <int kGroupsLeft>
void CopyAsyncWait() {
  emulator::AsyncCopyWait(kGroupsLeft);
}
inline void StoreRelease(uint32_t* at, uint32_t value) {
  emulator::CheckAccess(at, sizeof(uint32_t), true, true);
  __atomic_store_n(at, value, __ATOMIC_RELEASE);
  emulator::WordWritten();
}
inline uint32_t LoadAcquire(const uint32_t* at) {
  emulator::CheckAccess(at, sizeof(uint32_t), false, true);
  emulator::LookAtWord();
  return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}
inline void PollAgain() { emulator::PollAgain(); }

#endif

// ---------------------------------------------------------------- numbers

GPU_DEVICE float ToFloat(float x) { return x; }
GPU_DEVICE void Store(float* p, float x) { *p = x; }
GPU_DEVICE void Store(F16* p, float x) { *p = ToHalf(x); }

GPU_DEVICE uint32_t PackHalves(float low, float high) {
  return static_cast<uint32_t>(ToHalf(low).bits) | static_cast<uint32_t>(ToHalf(high).bits) << 16;
}
// The two halves of a word.
GPU_DEVICE void UnpackHalves(uint32_t pair, float* out) {
  out[0] = ToFloat(F16{static_cast<uint16_t>(pair & 0xffffu)});
  out[1] = ToFloat(F16{static_cast<uint16_t>(pair >> 16)});
}

// Eight elements from a 16-byte aligned address (f32: 32 bytes, two loads of 16).
GPU_DEVICE void Load8(const F16* p, float (&out)[8]) {
  const uint4 v = *reinterpret_cast<const uint4*>(p);
  UnpackHalves(v.x, out);
  UnpackHalves(v.y, out + 2);
  UnpackHalves(v.z, out + 4);
  UnpackHalves(v.w, out + 6);
}
GPU_DEVICE void Load8(const float* p, float (&out)[8]) {
  const uint4 a = reinterpret_cast<const uint4*>(p)[0], b = reinterpret_cast<const uint4*>(p)[1];
  out[0] = __uint_as_float(a.x), out[1] = __uint_as_float(a.y);
  out[2] = __uint_as_float(a.z), out[3] = __uint_as_float(a.w);
  out[4] = __uint_as_float(b.x), out[5] = __uint_as_float(b.y);
  out[6] = __uint_as_float(b.z), out[7] = __uint_as_float(b.w);
}

// kCount neighbours: one of f32, or four from a 16-byte aligned address.
template <int kCount>
GPU_DEVICE void LoadFloats(const float* p, float (&out)[kCount]) {
  static_assert(kCount == 1 || kCount == 4);
  if constexpr (kCount == 4) {
    const uint4 v = *reinterpret_cast<const uint4*>(p);
    out[0] = __uint_as_float(v.x), out[1] = __uint_as_float(v.y);
    out[2] = __uint_as_float(v.z), out[3] = __uint_as_float(v.w);
  } else {
    out[0] = *p;
  }
}
template <int kCount>
GPU_DEVICE void StoreFloats(float* p, const float (&values)[kCount]) {
  static_assert(kCount == 1 || kCount == 4);
  if constexpr (kCount == 4) {
    *reinterpret_cast<uint4*>(p) = make_uint4(__float_as_uint(values[0]), __float_as_uint(values[1]),
                                              __float_as_uint(values[2]), __float_as_uint(values[3]));
  } else {
    *p = values[0];
  }
}

// ---------------------------------------------------------------- sums and maxima, in a fixed order

GPU_DEVICE float WarpSum(float x) {
#pragma unroll
  for (int flip = 16; flip > 0; flip >>= 1) x += __shfl_xor_sync(kAllLanes, x, flip);
  return x;
}
GPU_DEVICE float WarpMax(float x) {
#pragma unroll
  for (int flip = 16; flip > 0; flip >>= 1) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, flip));
  return x;
}

// On all threads of a block of kWarps warps. `sums` may be used again at once.
template <int kWarps>
GPU_DEVICE float BlockSum(float x, float* sums) {
  x = WarpSum(x);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0.0f;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) x += sums[i];
  __syncthreads();
  return x;
}
template <int kWarps>
GPU_DEVICE float BlockMax(float x, float* maxima) {
  x = WarpMax(x);
  if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = x;
  __syncthreads();
  x = maxima[0];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) x = fmaxf(x, maxima[i]);
  __syncthreads();
  return x;
}

}  // namespace optserve::gpu
