// Elements of the paged cache (KvLayer) as kernels read them: some that lie side by side in one load, then
// one after another as f32.
#pragma once

#include "common/backend/backend.h"
#include "common/kernels/cuda/numerics.cuh"

namespace moepool {
namespace {

template <KvType type>
inline constexpr int kKvElementBytes = type == KvType::kF32    ? 4
                                       : type == KvType::kQ8_0 ? 1
                                                               : 2;

// `count` elements, a power of two, aligned to their size or to 16 bytes.
template <KvType type, int count>
struct KvElements {
  static constexpr int kBytes = kKvElementBytes<type> * count;
  static constexpr int kWords = (kBytes + 3) / 4;
  uint32_t word[kWords];

  SIMT_DEVICE void Load(const std::byte* p) {
    if constexpr (kBytes >= 16) {
      SIMT_UNROLL
      for (int i = 0; i < kBytes / 16; ++i) {
        const simt::Vector16 v = simt::Load16(p + 16 * i);
        word[4 * i] = v.x;
        word[4 * i + 1] = v.y;
        word[4 * i + 2] = v.z;
        word[4 * i + 3] = v.w;
      }
    } else if constexpr (kBytes == 8) {
      const simt::Vector8 v = simt::Load8(p);
      word[0] = v.x;
      word[1] = v.y;
    } else if constexpr (kBytes == 4) {
      word[0] = simt::Load4(p);
    } else {
      static_assert(kBytes == 2);
      word[0] = simt::Load2(p);
    }
  }

  // Element i, which is known when this is compiled; of Q8_0 its code.
  SIMT_DEVICE float operator[](int i) const {
    if constexpr (type == KvType::kF32) {
      return simt::BitsFloat(word[i]);
    } else if constexpr (type == KvType::kF16) {
      return HalfToFloat(static_cast<uint16_t>(word[i / 2] >> 16 * (i % 2)));
    } else if constexpr (type == KvType::kBF16) {
      return simt::BitsFloat(i % 2 == 0 ? word[i / 2] << 16 : word[i / 2] & 0xffff0000u);
    } else {
      // 2^23 + (code + 128) as the bits of a float: two fast instructions, where a conversion is slow.
      const uint32_t shifted = (word[i / 4] ^ 0x80808080u) >> 8 * (i % 4) & 0xff;
      return simt::BitsFloat(0x4b000000u | shifted) - 8388736.0f;
    }
  }
};

// Scales of Q8_0 are f16, of neighbouring positions side by side.
template <int count>
using KvScales = KvElements<KvType::kF16, count>;

// Bytes from a block's start to the scale of position 0 for dimension d.
SIMT_DEVICE int KvScaleOffset(int head_dim, int d) {
  return kKvBlockTokens * (head_dim + d / kKvQuantBlock * 2);
}

}  // namespace
}  // namespace moepool
