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

// d f16 | 32 int8.  w = d q
void GroupQ8_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
}

// d f16 | dmin f16 | 12 bytes: 8 scales and 8 minima of 6 bits | 128 bytes of nibbles, groups 2i and 2i + 1
// in the low and high halves of the same 32 bytes.  w = (d sc) q - dmin m
void GroupQ4_K(const uint8_t* block, int group, float* out) {
  const uint8_t* packed = block + 4;
  int scale;
  int min;
  if (group < 4) {
    scale = packed[group] & 63;
    min = packed[group + 4] & 63;
  } else {  // low 4 bits in bytes 8 to 11, high 2 bits atop the codes of groups 0 to 3
    scale = (packed[group + 4] & 15) | ((packed[group - 4] >> 6) << 4);
    min = (packed[group + 4] >> 4) | ((packed[group] >> 6) << 4);
  }
  const float d = LoadHalf(block) * static_cast<float>(scale);
  const float m = LoadHalf(block + 2) * static_cast<float>(min);
  const uint8_t* nibbles = block + 16 + (group / 2) * 32;
  const int shift = (group % 2) * 4;
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>((nibbles[i] >> shift) & 15) - m;
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
      case DType::kQ8_0:
        GroupQ8_0(block, out + c);
        break;
      case DType::kQ4_K:
        GroupQ4_K(block, group, out + c);
        break;
      default:
        GroupQ6_K(block, group, out + c);
        break;
    }
  }
}

}  // namespace moepool
