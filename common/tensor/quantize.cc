// See quantize.h. Codes are chosen against the scale as it will be read back (rounded to f16), not as
// computed.
#include "common/tensor/quantize.h"

#include <algorithm>
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

void BlockQ4_0(const float* x, uint8_t* out) {
  float extreme = 0;  // signed: it takes code 0 (-8), so that all 16 codes are used
  for (int i = 0; i < 32; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  }
  const float d = StoreHalf(extreme / -8, out);
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

void BlockQ8_0(const float* x, uint8_t* out) {
  float max_abs = 0;
  for (int i = 0; i < 32; ++i) max_abs = std::max(max_abs, std::fabs(x[i]));
  const float d = StoreHalf(max_abs / 127, out);
  for (int i = 0; i < 32; ++i)
    out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(Code(x[i], d, -127, 127)));
}

void BlockQ4_K(const float* x, uint8_t* out) {
  float scale[8];
  float min[8];  // subtracted, so >= 0
  for (int g = 0; g < 8; ++g) {
    const auto [low, high] = std::minmax_element(x + g * 32, x + g * 32 + 32);
    min[g] = std::max(0.0f, -*low);
    scale[g] = std::max(0.0f, *high + min[g]) / 15;
  }
  const float d = StoreHalf(*std::max_element(scale, scale + 8) / 63, out);
  const float dmin = StoreHalf(*std::max_element(min, min + 8) / 63, out + 2);
  uint8_t* packed = out + 4;
  std::memset(packed, 0, 12 + 128);
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
    uint8_t* nibbles = out + 16 + (g / 2) * 32;
    for (int i = 0; i < 32; ++i) {
      const int q = Code(x[g * 32 + i] + dmin * static_cast<float>(m), d * static_cast<float>(sc), 0, 15);
      nibbles[i] |= static_cast<uint8_t>(q << ((g % 2) * 4));
    }
  }
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
      case DType::kQ8_0:
        BlockQ8_0(x, bytes);
        break;
      case DType::kQ4_K:
        BlockQ4_K(x, bytes);
        break;
      default:
        BlockQ6_K(x, bytes);
        break;
    }
  }
}

}  // namespace moepool
