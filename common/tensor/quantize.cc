// See quantize.h. Codes are chosen against the scale as it will be read back (rounded to f16), not as
// computed.
#include "common/tensor/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "common/tensor/half.h"

namespace moepool {
namespace {

// Stores `scale` as f16 and returns the value that a reader will see.
float StoreHalf(float scale, uint8_t* out) {
  const uint16_t half = FloatToHalf(scale);
  std::memcpy(out, &half, 2);
  return HalfToFloat(half);
}

// round(value / scale) within [low, high]; 0 (clamped) where the scale is 0.
int Code(float value, float scale, int low, int high) {
  const float code = scale == 0 ? 0.0f : std::nearbyintf(value / scale);
  return static_cast<int>(std::clamp(code, static_cast<float>(low), static_cast<float>(high)));
}

// The value of the largest magnitude, with its sign. Where codes reach further below 0 than above, it takes
// the lowest, so that all codes are used.
float Extreme(const float* x, int n) {
  float extreme = 0;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  }
  return extreme;
}

void BlockQ4_0(const float* x, uint8_t* out) {
  const float d = StoreHalf(Extreme(x, 32) / -8, out);
  for (int i = 0; i < 16; ++i) {
    out[2 + i] = static_cast<uint8_t>((Code(x[i], d, -8, 7) + 8) | ((Code(x[i + 16], d, -8, 7) + 8) << 4));
  }
}

void BlockQ4_1(const float* x, uint8_t* out) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  const float m = StoreHalf(*low, out + 2);
  const float d = StoreHalf((*high - m) / 15, out);
  for (int i = 0; i < 16; ++i) {
    out[4 + i] = static_cast<uint8_t>(Code(x[i] - m, d, 0, 15) | (Code(x[i + 16] - m, d, 0, 15) << 4));
  }
}

// 4 low bits as nibbles, bit 4 of column c in bit c of `high`.
void PutFiveBits(const int* codes, uint8_t* high, uint8_t* nibbles) {
  uint32_t bits = 0;
  for (int c = 0; c < 32; ++c) bits |= static_cast<uint32_t>(codes[c] >> 4) << c;
  std::memcpy(high, &bits, 4);
  for (int i = 0; i < 16; ++i) nibbles[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

void BlockQ5_0(const float* x, uint8_t* out) {
  const float d = StoreHalf(Extreme(x, 32) / -16, out);
  int codes[32];
  for (int c = 0; c < 32; ++c) codes[c] = Code(x[c], d, -16, 15) + 16;
  PutFiveBits(codes, out + 2, out + 6);
}

void BlockQ5_1(const float* x, uint8_t* out) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  const float m = StoreHalf(*low, out + 2);
  const float d = StoreHalf((*high - m) / 31, out);
  int codes[32];
  for (int c = 0; c < 32; ++c) codes[c] = Code(x[c] - m, d, 0, 31);
  PutFiveBits(codes, out + 4, out + 8);
}

// Nibbles of the codes whose values [16], times d, lie nearest; of two as near, the lower code.
void PutNearest(const float* x, float d, const int8_t* values, uint8_t* nibbles) {
  const auto nearest = [d, values](float value) {
    int best = 0;
    for (int code = 1; code < 16; ++code) {
      const auto error = [&](int c) { return std::fabs(value - d * static_cast<float>(values[c])); };
      if (error(code) < error(best)) best = code;
    }
    return best;
  };
  for (int i = 0; i < 16; ++i) nibbles[i] = static_cast<uint8_t>(nearest(x[i]) | nearest(x[i + 16]) << 4);
}

void BlockIQ4_NL(const float* x, uint8_t* out) {
  const float d = StoreHalf(Extreme(x, 32) / kIq4NlValues[0], out);
  PutNearest(x, d, kIq4NlValues, out + 2);
}

// The scale as the format's paper has it: 2^(k - 2) where the largest magnitude is within [2^k, 2^(k + 1)),
// so that it is 4 to 8 units, of which those above 6 become 6. The exponent field of a float is k + 127. No
// float gives a scale above 252.
void BlockMXFP4(const float* x, uint8_t* out) {
  const int field = static_cast<int>(std::bit_cast<uint32_t>(std::fabs(Extreme(x, 32))) >> 23);
  out[0] = static_cast<uint8_t>(std::max(field - 2, 0));
  PutNearest(x, 0.5f * E8m0ToFloat(out[0]), kMxfp4Values, out + 1);
}

void BlockQ8_0(const float* x, uint8_t* out) {
  float max_abs = 0;
  for (int i = 0; i < 32; ++i) max_abs = std::max(max_abs, std::fabs(x[i]));
  const float d = StoreHalf(max_abs / 127, out);
  for (int i = 0; i < 32; ++i)
    out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(Code(x[i], d, -127, 127)));
}

// d, dmin and the 12 bytes of scales and minima of Q4_K and Q5_K, then codes[256] up to max_code.
void SixBitScales(const float* x, int max_code, uint8_t* out, int* codes) {
  float scale[8];
  float min[8];  // subtracted, so >= 0
  for (int g = 0; g < 8; ++g) {
    const auto [low, high] = std::minmax_element(x + g * 32, x + g * 32 + 32);
    min[g] = std::max(0.0f, -*low);
    scale[g] = std::max(0.0f, *high + min[g]) / static_cast<float>(max_code);
  }
  const float d = StoreHalf(*std::max_element(scale, scale + 8) / 63, out);
  const float dmin = StoreHalf(*std::max_element(min, min + 8) / 63, out + 2);
  uint8_t* packed = out + 4;
  std::memset(packed, 0, 12);
  for (int g = 0; g < 8; ++g) {
    const int sc = Code(scale[g], d, 0, 63);
    const int m = Code(min[g], dmin, 0, 63);
    if (g < 4) {
      packed[g] |= static_cast<uint8_t>(sc);
      packed[g + 4] |= static_cast<uint8_t>(m);
    } else {
      packed[g + 4] = static_cast<uint8_t>((sc & 15) | ((m & 15) << 4));
      packed[g - 4] |= static_cast<uint8_t>((sc >> 4) << 6);
      packed[g] |= static_cast<uint8_t>((m >> 4) << 6);
    }
    for (int i = g * 32; i < g * 32 + 32; ++i) {
      codes[i] = Code(x[i] + dmin * static_cast<float>(m), d * static_cast<float>(sc), 0, max_code);
    }
  }
}

// 4 bits of codes[256], groups 2i and 2i + 1 of 32 columns in the low and high nibbles of 32 bytes.
void PutNibbles(const int* codes, uint8_t* out) {
  for (int i = 0; i < 128; ++i) {
    const int* low = codes + i / 32 * 64 + i % 32;
    out[i] = static_cast<uint8_t>((low[0] & 15) | (low[32] & 15) << 4);
  }
}

// 2 bits of codes[256]: four groups of 32 columns in the pairs of bits of 32 bytes.
void PutPairs(const int* codes, uint8_t* out) {
  for (int i = 0; i < 64; ++i) {
    const int* c = codes + i / 32 * 128 + i % 32;
    out[i] = static_cast<uint8_t>((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 | (c[96] & 3) << 6);
  }
}

// Bit `bit` of codes[256]: that of group g of 32 columns in bit g of 32 bytes.
void PutBits(const int* codes, int bit, uint8_t* out) {
  for (int i = 0; i < 32; ++i) {
    int byte = 0;
    for (int g = 0; g < 8; ++g) byte |= (codes[g * 32 + i] >> bit & 1) << g;
    out[i] = static_cast<uint8_t>(byte);
  }
}

void BlockQ4_K(const float* x, uint8_t* out) {
  int codes[256];
  SixBitScales(x, 15, out, codes);
  PutNibbles(codes, out + 16);
}

void BlockQ5_K(const float* x, uint8_t* out) {
  int codes[256];
  SixBitScales(x, 31, out, codes);
  PutBits(codes, 4, out + 16);
  PutNibbles(codes, out + 48);
}

void BlockQ2_K(const float* x, uint8_t* out) {
  float scale[16];
  float min[16];  // subtracted, so >= 0
  for (int s = 0; s < 16; ++s) {
    const auto [low, high] = std::minmax_element(x + s * 16, x + s * 16 + 16);
    min[s] = std::max(0.0f, -*low);
    scale[s] = std::max(0.0f, *high + min[s]) / 3;
  }
  const float d = StoreHalf(*std::max_element(scale, scale + 16) / 15, out + 80);
  const float dmin = StoreHalf(*std::max_element(min, min + 16) / 15, out + 82);
  int codes[256];
  for (int s = 0; s < 16; ++s) {
    const int sc = Code(scale[s], d, 0, 15);
    const int m = Code(min[s], dmin, 0, 15);
    out[s] = static_cast<uint8_t>(sc | m << 4);
    for (int i = s * 16; i < s * 16 + 16; ++i) {
      codes[i] = Code(x[i] + dmin * static_cast<float>(m), d * static_cast<float>(sc), 0, 3);
    }
  }
  PutPairs(codes, out + 16);
}

void BlockQ3_K(const float* x, uint8_t* out) {
  float scale[16];  // of either sign, as Extreme() is
  float max_abs = 0;
  for (int s = 0; s < 16; ++s) {
    scale[s] = Extreme(x + s * 16, 16) / -4;
    max_abs = std::max(max_abs, std::fabs(scale[s]));
  }
  const float d = StoreHalf(max_abs / 31, out + 108);
  uint8_t* packed = out + 96;
  std::memset(packed, 0, 12);
  int codes[256];
  for (int s = 0; s < 16; ++s) {
    const int sc = Code(scale[s], d, -32, 31);
    packed[s % 8] |= static_cast<uint8_t>(((sc + 32) & 15) << (s / 8 * 4));
    packed[8 + s % 4] |= static_cast<uint8_t>((sc + 32) >> 4 << (s / 4 * 2));
    for (int i = s * 16; i < s * 16 + 16; ++i) codes[i] = Code(x[i], d * static_cast<float>(sc), -4, 3) + 4;
  }
  PutBits(codes, 2, out);
  PutPairs(codes, out + 32);
}

void BlockQ6_K(const float* x, uint8_t* out) {
  float scale[16];
  for (int s = 0; s < 16; ++s) {
    float max_abs = 0;
    for (int i = 0; i < 16; ++i) max_abs = std::max(max_abs, std::fabs(x[s * 16 + i]));
    scale[s] = max_abs / 31;
  }
  std::memset(out, 0, 192);
  const float d = StoreHalf(*std::max_element(scale, scale + 16) / 127, out + 208);
  for (int s = 0; s < 16; ++s) {
    const int sc = Code(scale[s], d, 0, 127);
    out[192 + s] = static_cast<uint8_t>(sc);
    for (int i = 0; i < 16; ++i) {
      const int column = s * 16 + i;
      const int q = Code(x[column], d * static_cast<float>(sc), -32, 31) + 32;
      const int half = column / 128;
      const int part = column % 128 / 32;
      const int lane = column % 32;
      out[half * 64 + (part % 2) * 32 + lane] |= static_cast<uint8_t>((q & 15) << ((part / 2) * 4));
      out[128 + half * 32 + lane] |= static_cast<uint8_t>((q >> 4) << (part * 2));
    }
  }
}

}  // namespace

void QuantizeRow(DType dtype, const float* row, int64_t cols, std::byte* out) {
  auto* bytes = reinterpret_cast<uint8_t*>(out);
  if (dtype == DType::kF32) {
    if (cols > 0) std::memcpy(bytes, row, static_cast<size_t>(cols) * 4);
    return;
  }
  const DTypeInfo& info = Info(dtype);
  for (int64_t c = 0; c < cols; c += info.block_cols, bytes += info.block_bytes) {
    const float* x = row + c;
    switch (dtype) {
      case DType::kF16: {
        const uint16_t half = FloatToHalf(*x);
        std::memcpy(bytes, &half, 2);
        break;
      }
      case DType::kBF16: {
        const uint16_t value = FloatToBFloat16(*x);
        std::memcpy(bytes, &value, 2);
        break;
      }
      case DType::kQ4_0:
        BlockQ4_0(x, bytes);
        break;
      case DType::kQ4_1:
        BlockQ4_1(x, bytes);
        break;
      case DType::kQ5_0:
        BlockQ5_0(x, bytes);
        break;
      case DType::kQ5_1:
        BlockQ5_1(x, bytes);
        break;
      case DType::kQ8_0:
        BlockQ8_0(x, bytes);
        break;
      case DType::kIQ4_NL:
        BlockIQ4_NL(x, bytes);
        break;
      case DType::kMXFP4:
        BlockMXFP4(x, bytes);
        break;
      case DType::kQ2_K:
        BlockQ2_K(x, bytes);
        break;
      case DType::kQ3_K:
        BlockQ3_K(x, bytes);
        break;
      case DType::kQ4_K:
        BlockQ4_K(x, bytes);
        break;
      case DType::kQ5_K:
        BlockQ5_K(x, bytes);
        break;
      default:
        BlockQ6_K(x, bytes);
        break;
    }
  }
}

}  // namespace moepool
