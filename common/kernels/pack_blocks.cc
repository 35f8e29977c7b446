// See pack_blocks.h. Each format's codes are spread to one byte a column, then put into vectors of 4 columns.
#include "common/kernels/pack_blocks.h"

namespace moepool {
namespace {

// Copies the f16 at `from`; whether it is finite.
bool PutScale(const uint8_t* from, uint8_t* plane, int lane) {
  const uint16_t half = LoadLittle16(from);
  std::memcpy(plane + 2 * lane, &half, sizeof half);
  return HalfIsFinite(half);
}

// Scale and minimum, in two planes of 16 rows.
bool PutScaleAndMin(const uint8_t* from, uint8_t* plane, int lane) {
  const bool finite = PutScale(from, plane, lane);
  return PutScale(from + 2, plane + 32, lane) && finite;
}

// --- Vectors of codes[32] ---

// Bits 0 to 3.
void PutNibbles(const uint8_t* codes, const PackTarget& to) {
  for (int v = 0; v < 4; ++v) {
    for (int i = 0; i < 4; ++i) {
      to.codes[64 * v + 4 * to.lane + i] =
          static_cast<uint8_t>((codes[4 * v + i] & 15) | (codes[4 * (v + 4) + i] & 15) << 4);
    }
  }
}

// Bits `shift` and `shift` + 1, two vectors at `offset`.
void PutPairs(const uint8_t* codes, int shift, int offset, const PackTarget& to) {
  for (int quad = 0; quad < 8; ++quad) {
    for (int i = 0; i < 4; ++i) {
      to.codes[offset + 64 * (quad & 1) + 4 * to.lane + i] |=
          static_cast<uint8_t>((codes[4 * quad + i] >> shift & 3) << (2 * (quad >> 1)));
    }
  }
}

// Bit `shift`, one vector at `offset`.
void PutBits(const uint8_t* codes, int shift, int offset, const PackTarget& to) {
  for (int quad = 0; quad < 8; ++quad) {
    for (int i = 0; i < 4; ++i) {
      to.codes[offset + 4 * to.lane + i] |= static_cast<uint8_t>((codes[4 * quad + i] >> shift & 1) << quad);
    }
  }
}

// --- Blocks of 32 ---

// 16 bytes: columns 0 to 15 in the low nibbles, 16 to 31 in the high ones.
void SpreadNibbles(const uint8_t* qs, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = qs[i] & 15;
    codes[16 + i] = qs[i] >> 4;
  }
}

void PutFourBits(const uint8_t* qs, const PackTarget& to) {
  uint8_t codes[32];
  SpreadNibbles(qs, codes);
  PutNibbles(codes, to);
}

// 4 bytes with bit 4 of column c in bit c, then nibbles.
void PutFiveBits(const uint8_t* qs, const PackTarget& to) {
  uint8_t codes[32];
  SpreadNibbles(qs + 4, codes);
  for (int c = 0; c < 32; ++c) codes[c] |= static_cast<uint8_t>((qs[c / 8] >> (c % 8) & 1) << 4);
  PutNibbles(codes, to);
  PutBits(codes, 4, 256, to);
}

void PutEightBits(const uint8_t* qs, const PackTarget& to) {
  for (int c = 0; c < 32; ++c) to.codes[64 * (c / 4) + 4 * to.lane + c % 4] = qs[c];
}

// --- K-quants: super-blocks of 256 ---

// 12 bytes of 6-bit scales and minima, 8 of each (Q4_K, Q5_K).
void PutSixBitScales(const uint8_t* packed, int sub, const PackTarget& to) {
  uint8_t scale;
  uint8_t min;
  if (sub < 4) {
    scale = packed[sub] & 63;
    min = packed[sub + 4] & 63;
  } else {
    scale = static_cast<uint8_t>((packed[sub + 4] & 15) | (packed[sub - 4] >> 6) << 4);
    min = static_cast<uint8_t>((packed[sub + 4] >> 4) | (packed[sub] >> 6) << 4);
  }
  to.scales[to.lane] = scale;
  to.scales[16 + to.lane] = min;
}

// Bytes that hold 4 bits of 64 columns: low nibbles first.
void SpreadSuperNibbles(const uint8_t* qs, int sub, uint8_t* codes) {
  const int shift = 4 * (sub % 2);
  for (int i = 0; i < 32; ++i) codes[i] = qs[32 * (sub / 2) + i] >> shift & 15;
}

// Bytes that hold 2 bits of 128 columns.
void SpreadSuperPairs(const uint8_t* qs, int sub, uint8_t* codes) {
  const int shift = 2 * (sub % 4);
  for (int i = 0; i < 32; ++i) codes[i] = qs[32 * (sub / 4) + i] >> shift & 3;
}

// 32 bytes that hold a bit of 256 columns: added to the codes at `to_bit`.
void AddSuperBits(const uint8_t* qs, int sub, int to_bit, uint8_t* codes) {
  for (int i = 0; i < 32; ++i) codes[i] |= static_cast<uint8_t>((qs[i] >> sub & 1) << to_bit);
}

// 16 bytes of scale and minimum (4 bits each), 64 of pairs, f16 d, f16 dmin.
bool PutQ2_K(const uint8_t* block, int sub, const PackTarget& to) {
  uint8_t codes[32];
  SpreadSuperPairs(block + 16, sub, codes);
  PutPairs(codes, 0, 0, to);
  std::memcpy(to.scales + 2 * to.lane, block + 2 * sub, 2);
  return PutScaleAndMin(block + 80, to.supers, to.lane);
}

// 32 bytes of bit 2, 64 of pairs, 12 of 16 scales + 32 of 6 bits (4 low bits of 16, then 2 high ones), f16 d.
bool PutQ3_K(const uint8_t* block, int sub, const PackTarget& to) {
  uint8_t codes[32];
  SpreadSuperPairs(block + 32, sub, codes);
  AddSuperBits(block, sub, 2, codes);
  PutPairs(codes, 0, 0, to);
  PutBits(codes, 2, 128, to);
  const uint8_t* const packed = block + 96;
  for (int half = 0; half < 2; ++half) {
    const int s = 2 * sub + half;
    const int low = packed[s % 8] >> (s / 8 * 4) & 15;
    const int high = packed[8 + s % 4] >> (s / 4 * 2) & 3;
    to.scales[2 * to.lane + half] = static_cast<uint8_t>((low | high << 4) - 32);
  }
  return PutScale(block + 108, to.supers, to.lane);
}

// f16 d, f16 dmin, 12 bytes of scales and minima, 128 bytes of nibbles.
bool PutQ4_K(const uint8_t* block, int sub, const PackTarget& to) {
  uint8_t codes[32];
  SpreadSuperNibbles(block + 16, sub, codes);
  PutNibbles(codes, to);
  PutSixBitScales(block + 4, sub, to);
  return PutScaleAndMin(block, to.supers, to.lane);
}

// As Q4_K, with 32 bytes of bit 4 before the nibbles.
bool PutQ5_K(const uint8_t* block, int sub, const PackTarget& to) {
  uint8_t codes[32];
  SpreadSuperNibbles(block + 48, sub, codes);
  AddSuperBits(block + 16, sub, 4, codes);
  PutNibbles(codes, to);
  PutBits(codes, 4, 256, to);
  PutSixBitScales(block + 4, sub, to);
  return PutScaleAndMin(block, to.supers, to.lane);
}

// 128 bytes of low nibbles, 64 of high bits, 16 scales, f16 d. Each half of 128 columns: 32 l + i has its low
// nibble in byte 32 (l & 1) + i, low half of it for l < 2, and its high bits at 2 l of byte i.
bool PutQ6_K(const uint8_t* block, int sub, const PackTarget& to) {
  const int half = sub / 4;
  const int l = sub % 4;
  const uint8_t* const low = block + 64 * half + 32 * (l & 1);
  uint8_t codes[32];
  SpreadSuperPairs(block + 128, sub, codes);
  for (int i = 0; i < 32; ++i) {
    codes[i] = static_cast<uint8_t>(codes[i] << 4 | (l < 2 ? low[i] & 15 : low[i] >> 4));
  }
  PutNibbles(codes, to);
  PutPairs(codes, 4, 256, to);
  std::memcpy(to.scales + 2 * to.lane, block + 192 + 2 * sub, 2);
  return PutScale(block + 208, to.supers, to.lane);
}

}  // namespace

PlaneBytes Planes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {64, 0, 0};
    case DType::kF16:
    case DType::kBF16:
      return {32, 0, 0};
    case DType::kQ4_0:
    case DType::kIQ4_NL:
      return {256, 32, 0};
    case DType::kQ4_1:
      return {256, 64, 0};
    case DType::kQ5_0:
      return {320, 32, 0};
    case DType::kQ5_1:
      return {320, 64, 0};
    case DType::kQ8_0:
      return {512, 32, 0};
    case DType::kQ2_K:
      return {128, 32, 64};
    case DType::kQ3_K:
      return {192, 32, 32};
    case DType::kQ4_K:
      return {256, 32, 64};
    case DType::kQ5_K:
      return {320, 32, 64};
    case DType::kQ6_K:
      return {384, 32, 32};
  }
  return {};
}

bool PackBlock(DType dtype, const uint8_t* block, int sub, const PackTarget& to) {
  switch (dtype) {
    case DType::kQ4_0:
    case DType::kIQ4_NL:
      PutFourBits(block + 2, to);
      return PutScale(block, to.scales, to.lane);
    case DType::kQ5_0:
      PutFiveBits(block + 2, to);
      return PutScale(block, to.scales, to.lane);
    case DType::kQ8_0:
      PutEightBits(block + 2, to);
      return PutScale(block, to.scales, to.lane);
    case DType::kQ4_1:
      PutFourBits(block + 4, to);
      return PutScaleAndMin(block, to.scales, to.lane);
    case DType::kQ5_1:
      PutFiveBits(block + 4, to);
      return PutScaleAndMin(block, to.scales, to.lane);
    case DType::kQ2_K:
      return PutQ2_K(block, sub, to);
    case DType::kQ3_K:
      return PutQ3_K(block, sub, to);
    case DType::kQ4_K:
      return PutQ4_K(block, sub, to);
    case DType::kQ5_K:
      return PutQ5_K(block, sub, to);
    case DType::kQ6_K:
      return PutQ6_K(block, sub, to);
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      break;
  }
  return false;
}

}  // namespace moepool
