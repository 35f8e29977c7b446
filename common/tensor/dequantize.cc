// Dequantisation by the definition of the GGUF block formats, 32 columns at a time: the plain reference that
// repacking and kernels are tested against.
#include <bit>
#include <cstring>

#include "common/tensor/half.h"
#include "common/tensor/matrix_view.h"

namespace moepool {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF blocks are read as they lie in the file");

constexpr int kGroup = 32;  // columns

template <typename T>
T Load(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

float LoadHalf(const uint8_t* p) { return HalfToFloat(Load<uint16_t>(p)); }

// Code of column c where 16 bytes hold columns 0 to 15 in their low nibbles, 16 to 31 in the high ones.
int Nibble(const uint8_t* nibbles, int c) { return c < 16 ? nibbles[c] & 15 : nibbles[c - 16] >> 4; }

// d f16 | 16 bytes: column c in the low nibble of byte c, column c + 16 in the high one.  w = d (q - 8)
void GroupQ4_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((block[2 + i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((block[2 + i] >> 4) - 8);
  }
}

// d f16 | m f16 | nibbles as in Q4_0.  w = d q + m
void GroupQ4_1(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(block[4 + i] & 15) + m;
    out[i + 16] = d * static_cast<float>(block[4 + i] >> 4) + m;
  }
}

// d f16 | bit 4 of column c in bit c of 4 bytes | nibbles as in Q4_0.  w = d (q - 16)
void GroupQ5_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  const auto high = Load<uint32_t>(block + 2);
  for (int c = 0; c < 32; ++c) {
    out[c] = d * static_cast<float>((Nibble(block + 6, c) | static_cast<int>(high >> c & 1) << 4) - 16);
  }
}

// d f16 | m f16 | bits and nibbles as in Q5_0.  w = d q + m
void GroupQ5_1(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + 2);
  const auto high = Load<uint32_t>(block + 4);
  for (int c = 0; c < 32; ++c) {
    out[c] = d * static_cast<float>(Nibble(block + 8, c) | static_cast<int>(high >> c & 1) << 4) + m;
  }
}

// d f16 | nibbles as in Q4_0.  w = d value(q)
void GroupIQ4_NL(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  for (int c = 0; c < 32; ++c) out[c] = d * static_cast<float>(kIq4NlValues[Nibble(block + 2, c)]);
}

// E8M0 scale | nibbles as in Q4_0.  w = scale value(q) / 2. Exact while it is within f32: value(q) has 3
// bits, and the least scale is 2^-127, so that w is a multiple of 2^-128. A scale of 2^126 or more, which
// quantisers of floats do not write, takes the larger codes to infinity.
void GroupMXFP4(const uint8_t* block, float* out) {
  const float scale = E8m0ToFloat(block[0]);
  for (int c = 0; c < 32; ++c) {
    out[c] = scale * (0.5f * static_cast<float>(kMxfp4Values[Nibble(block + 1, c)]));
  }
}

// d f16 | 32 int8.  w = d q
void GroupQ8_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
}

// Scale and minimum of a group in the 12 bytes of Q4_K and Q5_K: 8 of each, 6 bits wide.
struct ScaleAndMin {
  float scale;
  float min;
};
ScaleAndMin SixBits(const uint8_t* packed, int group) {
  int scale;
  int min;
  if (group < 4) {
    scale = packed[group] & 63;
    min = packed[group + 4] & 63;
  } else {  // low 4 bits in bytes 8 to 11, high 2 bits atop the codes of groups 0 to 3
    scale = (packed[group + 4] & 15) | ((packed[group - 4] >> 6) << 4);
    min = (packed[group + 4] >> 4) | ((packed[group] >> 6) << 4);
  }
  return {static_cast<float>(scale), static_cast<float>(min)};
}

// d f16 | dmin f16 | 12 bytes of scales and minima | 128 bytes of nibbles, groups 2i and 2i + 1 in the low
// and high halves of the same 32 bytes.  w = (d sc) q - dmin m
void GroupQ4_K(const uint8_t* block, int group, float* out) {
  const ScaleAndMin codes = SixBits(block + 4, group);
  const float d = LoadHalf(block) * codes.scale;
  const float m = LoadHalf(block + 2) * codes.min;
  const uint8_t* nibbles = block + 16 + (group / 2) * 32;
  const int shift = (group % 2) * 4;
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>((nibbles[i] >> shift) & 15) - m;
}

// As Q4_K with 32 bytes between scales and nibbles: bit 4 of column i of group g in bit g of byte i.
void GroupQ5_K(const uint8_t* block, int group, float* out) {
  const ScaleAndMin codes = SixBits(block + 4, group);
  const float d = LoadHalf(block) * codes.scale;
  const float m = LoadHalf(block + 2) * codes.min;
  const uint8_t* high = block + 16;
  const uint8_t* nibbles = block + 48 + (group / 2) * 32;
  const int shift = (group % 2) * 4;
  for (int i = 0; i < 32; ++i) {
    out[i] = d * static_cast<float>(((nibbles[i] >> shift) & 15) | ((high[i] >> group) & 1) << 4) - m;
  }
}

// 16 bytes, one per 16 columns: scale in the low nibble, minimum in the high | 64 bytes of pairs of bits |
// d f16 | dmin f16. Each half of 128 columns has 32 bytes of its own: four groups share them.
// w = (d sc) q - dmin m
void GroupQ2_K(const uint8_t* block, int group, float* out) {
  const uint8_t* pairs = block + 16 + (group / 4) * 32;
  const int shift = (group % 4) * 2;
  for (int i = 0; i < 32; ++i) {
    const uint8_t codes = block[group * 2 + i / 16];
    const float d = LoadHalf(block + 80) * static_cast<float>(codes & 15);
    const float m = LoadHalf(block + 82) * static_cast<float>(codes >> 4);
    out[i] = d * static_cast<float>((pairs[i] >> shift) & 3) - m;
  }
}

// 32 bytes: bit 2 of column i of group g in bit g of byte i | 64 bytes of pairs of bits as in Q2_K | 12
// bytes: 16 scales of 6 bits, low 4 in bytes 0 to 7 (8 to 15 in the high nibbles), high 2 of scale s in bits
// 2 (s / 4) of byte 8 + s % 4 | d f16.  w = (d (sc - 32)) (q - 4)
void GroupQ3_K(const uint8_t* block, int group, float* out) {
  const uint8_t* pairs = block + 32 + (group / 4) * 32;
  const uint8_t* packed = block + 96;
  const int shift = (group % 4) * 2;
  for (int i = 0; i < 32; ++i) {
    const int s = group * 2 + i / 16;
    const int low = s < 8 ? packed[s] & 15 : packed[s - 8] >> 4;
    const int scale = (low | ((packed[8 + s % 4] >> (2 * (s / 4))) & 3) << 4) - 32;
    const int q = ((pairs[i] >> shift) & 3) | ((block[i] >> group) & 1) << 2;
    out[i] = LoadHalf(block + 108) * static_cast<float>(scale) * static_cast<float>(q - 4);
  }
}

// 128 bytes of low nibbles | 64 bytes of high pairs of bits | 16 int8 scales, one per 16 columns | d f16.
// Each half of 128 columns has 64 and 32 bytes of its own: four groups share them.  w = (d sc) (q - 32)
void GroupQ6_K(const uint8_t* block, int group, float* out) {
  const int half = group / 4;
  const int part = group % 4;
  const uint8_t* low = block + half * 64 + (part % 2) * 32;
  const uint8_t* high = block + 128 + half * 32;
  const uint8_t* scales = block + 192 + half * 8 + part * 2;
  const int low_shift = (part / 2) * 4;
  const int high_shift = part * 2;
  const float d = LoadHalf(block + 208);
  for (int i = 0; i < 32; ++i) {
    const int q = ((low[i] >> low_shift) & 15) | (((high[i] >> high_shift) & 3) << 4);
    const float scale = d * static_cast<float>(static_cast<int8_t>(scales[i / 16]));
    out[i] = scale * static_cast<float>(q - 32);
  }
}

}  // namespace

void DequantizeRow(const MatrixView& view, int64_t row, float* out) {
  const auto* data = reinterpret_cast<const uint8_t*>(view.data) + row * view.row_stride_bytes;
  switch (view.dtype) {
    case DType::kF32:
      if (view.cols > 0) std::memcpy(out, data + view.col_begin * 4, static_cast<size_t>(view.cols) * 4);
      return;
    case DType::kF16:
      for (int64_t c = 0; c < view.cols; ++c) out[c] = LoadHalf(data + (view.col_begin + c) * 2);
      return;
    case DType::kBF16:
      for (int64_t c = 0; c < view.cols; ++c) {
        out[c] = BFloat16ToFloat(Load<uint16_t>(data + (view.col_begin + c) * 2));
      }
      return;
    default:
      break;
  }
  const DTypeInfo& info = Info(view.dtype);
  for (int64_t c = 0; c < view.cols; c += kGroup) {
    const int64_t column = view.col_begin + c;
    const uint8_t* block = data + column / info.block_cols * info.block_bytes;
    const int group = static_cast<int>(column % info.block_cols) / kGroup;
    switch (view.dtype) {
      case DType::kQ4_0:
        GroupQ4_0(block, out + c);
        break;
      case DType::kQ4_1:
        GroupQ4_1(block, out + c);
        break;
      case DType::kQ5_0:
        GroupQ5_0(block, out + c);
        break;
      case DType::kQ5_1:
        GroupQ5_1(block, out + c);
        break;
      case DType::kQ8_0:
        GroupQ8_0(block, out + c);
        break;
      case DType::kIQ4_NL:
        GroupIQ4_NL(block, out + c);
        break;
      case DType::kMXFP4:
        GroupMXFP4(block, out + c);
        break;
      case DType::kQ2_K:
        GroupQ2_K(block, group, out + c);
        break;
      case DType::kQ3_K:
        GroupQ3_K(block, group, out + c);
        break;
      case DType::kQ4_K:
        GroupQ4_K(block, group, out + c);
        break;
      case DType::kQ5_K:
        GroupQ5_K(block, group, out + c);
        break;
      default:
        GroupQ6_K(block, group, out + c);
        break;
    }
  }
}

}  // namespace moepool
