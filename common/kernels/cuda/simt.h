// The one header that kernels are written against. nvcc maps it to the device; any other compiler includes
// <simt_host.h>, the emulation of tests/support/simt, so that the same source runs in the ordinary tests.
//
// Kernels are functions of the anonymous namespace, marked SIMT_KERNEL, with one argument by value. They use
// threadIdx, blockIdx and blockDim as CUDA spells them, and the functions below for all else. Compiled with
// --fmad=false: a fused multiply-add is written out. What the kernels compute is IEEE 754 arithmetic in a
// written order, so that the device, the emulation and the CPU backend agree to the last bit.
//
// A .cu file puts its launches into namespace moepool::SIMT_TARGET, so that one program may hold both builds.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)

#define SIMT_TARGET device
#define SIMT_KERNEL __global__ void
#define SIMT_ARGS const __grid_constant__  // before an argument that is large or indexed
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
__device__ inline void AtomicAdd(uint64_t* p, uint64_t value) {
  static_assert(sizeof(unsigned long long) == sizeof(uint64_t));
  atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(value));
}
__device__ inline int32_t AtomicOr(int32_t* p, int32_t value) { return atomicOr(p, value); }
__device__ inline int32_t Dp4a(uint32_t a, uint32_t b, int32_t c) {
  return __dp4a(static_cast<int32_t>(a), static_cast<int32_t>(b), c);
}
// Byte i is byte n_i of (low, high), where n_i is bits 4 i to 4 i + 2 of `nibbles`, whose other bits are 0.
__device__ inline uint32_t PickBytes(uint32_t low, uint32_t high, uint32_t nibbles) {
  return __byte_perm(low, high, nibbles);
}
// The upper 64 bits of the product.
__device__ inline uint64_t MultiplyHigh(uint64_t a, uint64_t b) { return __umul64hi(a, b); }
__device__ inline int Popcount(uint32_t v) { return __popc(v); }
__device__ inline int BitWidth(uint32_t v) { return 32 - __clz(static_cast<int>(v)); }
__device__ inline float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline float Divide(float a, float b) { return __fdiv_rn(a, b); }
__device__ inline float SquareRoot(float a) { return __fsqrt_rn(a); }
__device__ inline float BitsFloat(uint32_t v) { return __uint_as_float(v); }
__device__ inline uint32_t FloatBits(float v) { return __float_as_uint(v); }
// IEEE 754, nearest even, subnormals included; past the range to infinity. A NaN stays one.
__device__ inline float HalfToFloat(uint16_t h) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
  return x;
}
__device__ inline uint16_t FloatToHalf(float x) {
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return h;
}
// Through the read-only path; aligned to their size.
__device__ inline Vector16 Load16(const void* p) { return __ldg(static_cast<const uint4*>(p)); }
__device__ inline Vector8 Load8(const void* p) { return __ldg(static_cast<const uint2*>(p)); }
__device__ inline uint32_t Load4(const void* p) { return __ldg(static_cast<const unsigned*>(p)); }
__device__ inline uint8_t Load1(const void* p) { return __ldg(static_cast<const unsigned char*>(p)); }
__device__ inline uint16_t Load2(const void* p) { return __ldg(static_cast<const unsigned short*>(p)); }
// Of memory that this kernel writes, shared memory included; aligned to their size.
__device__ inline Vector16 Read16(const void* p) { return *static_cast<const uint4*>(p); }
__device__ inline Vector8 Read8(const void* p) { return *static_cast<const uint2*>(p); }
__device__ inline void Write16(Vector16 v, void* p) { *static_cast<uint4*>(p) = v; }
__device__ inline void Write8(Vector8 v, void* p) { *static_cast<uint2*>(p) = v; }

// The warp's product of signed bytes, d = a b + d, in int32 (mma.m16n8k32). A [16, 32], B [32, 8], D [16, 8];
// lane = 4 g + t holds
//   a: A[g, 4 t ..], A[g + 8, 4 t ..], A[g, 16 + 4 t ..], A[g + 8, 16 + 4 t ..], four columns each
//   b: B[4 t .., g], B[16 + 4 t .., g], four rows each
//   d: D[g, 2 t], D[g, 2 t + 1], D[g + 8, 2 t], D[g + 8, 2 t + 1]
__device__ inline void MultiplyBytes(const uint32_t (&a)[4], const uint32_t (&b)[2], int32_t (&d)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Starts a kernel: in the order of `stream`, a cudaStream_t. At most 48 KiB of dynamic shared memory. What
// goes wrong shows at the device's next call (common/backend/cuda/device.h).
struct LaunchShape {
  uint32_t grid_x = 1;
  uint32_t grid_y = 1;
  uint32_t grid_z = 1;
  uint32_t threads = 1;  // a block
  size_t dynamic_shared_bytes = 0;
};
template <typename Args>
void Start(void (*kernel)(Args), const LaunchShape& shape, void* stream, const Args& args) {
  kernel<<<dim3(shape.grid_x, shape.grid_y, shape.grid_z), shape.threads, shape.dynamic_shared_bytes,
           static_cast<cudaStream_t>(stream)>>>(args);
}

}  // namespace moepool::simt

#else
#include <simt_host.h>
#endif
