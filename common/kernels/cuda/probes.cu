// See probe_args.h.
#include "common/kernels/cuda/launches.h"
#include "common/kernels/cuda/probe_args.h"
#include "common/kernels/cuda/simt.h"

namespace moepool {
namespace {

constexpr int kReadsInFlight = 4;

SIMT_DEVICE uint32_t Words(const simt::Vector16& v) { return v.x + v.y + v.z + v.w; }

// Adds a value of each lane to *sum, modulo 2^32.
SIMT_DEVICE void AddOfWarp(uint32_t value, int32_t* sum) {
  for (int m = simt::kWarp / 2; m > 0; m /= 2) value += simt::ShuffleXor(simt::kAllLanes, value, m);
  if (threadIdx.x % simt::kWarp == 0) simt::AtomicAdd(sum, static_cast<int32_t>(value));
}

SIMT_KERNEL ReadProbe(ReadProbeArgs args) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  uint32_t sum = 0;
  for (; i + (kReadsInFlight - 1) * stride < args.vectors; i += kReadsInFlight * stride) {
    simt::Vector16 v[kReadsInFlight];
    SIMT_UNROLL
    for (int r = 0; r < kReadsInFlight; ++r) v[r] = simt::Load16(args.data + (i + r * stride) * 16);
    SIMT_UNROLL
    for (int r = 0; r < kReadsInFlight; ++r) sum += Words(v[r]);
  }
  for (; i < args.vectors; i += stride) sum += Words(simt::Load16(args.data + i * 16));
  AddOfWarp(sum, args.sum);
}

// Products that wait for no other but the one of the round before.
SIMT_KERNEL MultiplyProbe(MultiplyProbeArgs args) {
  const uint32_t a[4] = {0x01010101, 0x01010101, 0x01010101, 0x01010101};
  const uint32_t b[2] = {0x01010101, 0x01010101};
  int32_t d[kProbeProducts][4] = {};
  for (int round = 0; round < args.rounds; ++round) {
    SIMT_UNROLL
    for (int p = 0; p < kProbeProducts; ++p) simt::MultiplyBytes(a, b, d[p]);
  }
  uint32_t sum = 0;
  SIMT_UNROLL
  for (int p = 0; p < kProbeProducts; ++p) {
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) sum += static_cast<uint32_t>(d[p][i]);
  }
  AddOfWarp(sum, args.sum);
}

}  // namespace

namespace SIMT_TARGET {

void LaunchReadProbe(const ReadProbeArgs& args, void* stream) {
  simt::Start(ReadProbe, {.grid_x = static_cast<uint32_t>(args.blocks), .threads = kProbeThreads}, stream,
              args);
}

void LaunchMultiplyProbe(const MultiplyProbeArgs& args, void* stream) {
  simt::Start(MultiplyProbe, {.grid_x = static_cast<uint32_t>(args.blocks), .threads = kProbeThreads}, stream,
              args);
}

}  // namespace SIMT_TARGET
}  // namespace moepool
