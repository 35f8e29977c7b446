// The one header that kernels are written against. nvcc maps it to the device; any other compiler includes
// <simt_host.h>, the emulation of tests/support/simt, so that the same source runs in the ordinary tests.
//
// Kernels are functions of the anonymous namespace, marked SIMT_KERNEL, with one argument by value. They use
// threadIdx, blockIdx and blockDim as CUDA spells them, and the functions below for all else. Compiled with
// --fmad=false: a fused multiply-add is written out.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

#define SIMT_KERNEL __global__ void
#define SIMT_DEVICE __device__ inline
#define SIMT_UNROLL _Pragma("unroll")
// type name[count], shared by the threads of a block; what it holds at first is undefined.
#define SIMT_SHARED(type, name, count) __shared__ type name[count]
// The bytes asked for at the launch, as type*, aligned to 16.
#define SIMT_DYNAMIC_SHARED(type, name)                         \
  extern __shared__ __align__(16) unsigned char simt_dynamic[]; \
  type* const name = reinterpret_cast<type*>(simt_dynamic)

namespace moepool::simt {

inline constexpr int kWarp = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;
using Vector16 = uint4;
using Vector8 = uint2;

__device__ inline void SyncThreads() { __syncthreads(); }
__device__ inline void SyncWarp(uint32_t mask) { __syncwarp(mask); }
template <typename T>
__device__ T Shuffle(uint32_t mask, T value, int lane) {
  return __shfl_sync(mask, value, lane);
}
template <typename T>
__device__ T ShuffleXor(uint32_t mask, T value, int lanes) {
  return __shfl_xor_sync(mask, value, lanes);
}
template <typename T>
__device__ T ShuffleUp(uint32_t mask, T value, int lanes) {
  return __shfl_up_sync(mask, value, static_cast<unsigned>(lanes));
}
__device__ inline uint32_t Ballot(uint32_t mask, bool predicate) { return __ballot_sync(mask, predicate); }
__device__ inline bool Any(uint32_t mask, bool predicate) { return __any_sync(mask, predicate) != 0; }
__device__ inline bool All(uint32_t mask, bool predicate) { return __all_sync(mask, predicate) != 0; }
__device__ inline int32_t AtomicAdd(int32_t* p, int32_t value) { return atomicAdd(p, value); }
__device__ inline int32_t AtomicOr(int32_t* p, int32_t value) { return atomicOr(p, value); }
__device__ inline int32_t Dp4a(uint32_t a, uint32_t b, int32_t c) {
  return __dp4a(static_cast<int32_t>(a), static_cast<int32_t>(b), c);
}
__device__ inline int Popcount(uint32_t v) { return __popc(v); }
__device__ inline int BitWidth(uint32_t v) { return 32 - __clz(static_cast<int>(v)); }
__device__ inline float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline float Divide(float a, float b) { return __fdiv_rn(a, b); }
__device__ inline float BitsFloat(uint32_t v) { return __uint_as_float(v); }
__device__ inline uint32_t FloatBits(float v) { return __float_as_uint(v); }
// Through the read-only path; aligned to their size.
__device__ inline Vector16 Load16(const void* p) { return __ldg(static_cast<const uint4*>(p)); }
__device__ inline Vector8 Load8(const void* p) { return __ldg(static_cast<const uint2*>(p)); }
__device__ inline uint32_t Load4(const void* p) { return __ldg(static_cast<const unsigned*>(p)); }
__device__ inline uint16_t Load2(const void* p) { return __ldg(static_cast<const unsigned short*>(p)); }

}  // namespace moepool::simt

#else
#include <simt_host.h>
#endif
