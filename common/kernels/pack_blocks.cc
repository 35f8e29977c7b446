// See pack_blocks.h. Sixteen rows at once: the codes of each are spread to one byte a column and stored quad
// by quad, four columns in a 32-bit word, so that what remains is masks and shifts over whole vectors of 16
// rows, which the compiler does with the vectors that every x86-64 has.
#include "common/kernels/pack_blocks.h"

#include <cstddef>
#include <cstdlib>

namespace moepool {
namespace {

constexpr int kLanes = 16;
constexpr int kQuads = 8;  // of 32 columns

// One block of the group's rows.
struct Source {
  const uint8_t* Row(int lane) const { return block + lane * stride_bytes; }
  const uint8_t* block;
  int64_t stride_bytes;
  int rows;
  int sub;
};

// Copies the f16 at `offset` of each row's block into a plane [16]; whether all are finite.
bool PutHalves(const Source& from, int offset, uint8_t* plane) {
  bool finite = true;
  for (int lane = 0; lane < from.rows; ++lane) {
    const uint16_t half = LoadLittle16(from.Row(lane) + offset);
    std::memcpy(plane + 2 * lane, &half, sizeof half);
    finite &= HalfIsFinite(half);
  }
  return finite;
}

// Scale and minimum, in two planes of 16 rows.
bool PutScaleAndMin(const Source& from, int offset, uint8_t* plane) {
  const bool finite = PutHalves(from, offset, plane);
  return PutHalves(from, offset + 2, plane + 2 * kLanes) && finite;
}

// Two bytes at `offset` of each row's block into a plane [16][2].
void PutBytePairs(const Source& from, int offset, uint8_t* plane) {
  for (int lane = 0; lane < from.rows; ++lane) std::memcpy(plane + 2 * lane, from.Row(lane) + offset, 2);
}

// Whether the weights of an MXFP4 block are finite: 255 is NaN, and 253 and 254 take values past f32, as
// value * 2^(e - 128) < 2^128 has to hold.
bool Mxfp4IsFinite(const uint8_t* block) {
  const int e = block[0];
  if (e < 253) return true;
  if (e == 255) return false;
  const int end = e == 253 ? 8 : 4;
  for (int i = 1; i <= 16; ++i) {
    if (std::abs(kMxfp4Values[block[i] & 15]) >= end || std::abs(kMxfp4Values[block[i] >> 4]) >= end)
      return false;
  }
  return true;
}

// The E8M0 scale of each row's block into a plane [16].
bool PutExponents(const Source& from, uint8_t* plane) {
  bool finite = true;
  for (int lane = 0; lane < from.rows; ++lane) {
    plane[lane] = from.Row(lane)[0];
    finite &= Mxfp4IsFinite(from.Row(lane));
  }
  return finite;
}

// --- Codes of 16 rows: word [quad][lane] holds 4 columns, a byte each ---

struct Tile {
  // spread(block, codes) writes the 32 codes of one row's block. Rows past the last are zeros.
  template <typename Spread>
  Tile(const Source& from, const Spread& spread) {
    if (from.rows < kLanes) std::memset(words, 0, sizeof words);
    for (int lane = 0; lane < from.rows; ++lane) {
      alignas(16) uint8_t codes[4 * kQuads];
      spread(from.Row(lane), codes);
      for (int quad = 0; quad < kQuads; ++quad) std::memcpy(&words[quad][lane], codes + 4 * quad, 4);
    }
  }

  // Bits 0 to 3.
  void PutNibbles(uint8_t* to) const {
    for (int v = 0; v < 4; ++v) {
      uint32_t out[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        out[lane] = (words[v][lane] & 0x0f0f0f0f) | (words[v + 4][lane] & 0x0f0f0f0f) << 4;
      }
      std::memcpy(to + 64 * v, out, sizeof out);
    }
  }

  // Bits `shift` and `shift` + 1, two vectors.
  void PutPairs(int shift, uint8_t* to) const {
    for (int v = 0; v < 2; ++v) {
      uint32_t out[kLanes] = {};
      for (int i = 0; i < 4; ++i) {
        for (int lane = 0; lane < kLanes; ++lane) {
          out[lane] |= (words[v + 2 * i][lane] >> shift & 0x03030303) << (2 * i);
        }
      }
      std::memcpy(to + 64 * v, out, sizeof out);
    }
  }

  // Bit `shift`, one vector.
  void PutBits(int shift, uint8_t* to) const {
    uint32_t out[kLanes] = {};
    for (int quad = 0; quad < kQuads; ++quad) {
      for (int lane = 0; lane < kLanes; ++lane) {
        out[lane] |= (words[quad][lane] >> shift & 0x01010101) << quad;
      }
    }
    std::memcpy(to, out, sizeof out);
  }

  void PutBytes(uint8_t* to) const { std::memcpy(to, words, sizeof words); }

  alignas(64) uint32_t words[kQuads][kLanes];
};

// --- Blocks of 32 ---

// 16 bytes at `offset`: columns 0 to 15 in the low nibbles, 16 to 31 in the high ones. So the words of the
// file are those of the plane.
void PutFourBits(const Source& from, int offset, uint8_t* to) {
  uint32_t words[4][kLanes];
  if (from.rows < kLanes) std::memset(words, 0, sizeof words);
  for (int lane = 0; lane < from.rows; ++lane) {
    for (int v = 0; v < 4; ++v) std::memcpy(&words[v][lane], from.Row(lane) + offset + 4 * v, 4);
  }
  std::memcpy(to, words, sizeof words);
}

// Bit c of `bits` to bit 4 of codes[c]. A multiplication copies eight bits to a byte each, and a mask picks
// one in each.
void AddFifthBits(uint32_t bits, uint8_t* codes) {
  for (int i = 0; i < 4; ++i) {
    const uint64_t copies = (bits >> (8 * i) & 0xff) * uint64_t{0x0101010101010101};
    const uint64_t picked = copies & 0x8040201008040201;
    const uint64_t set = (picked + 0x00406070787c7e7f) & 0x8080808080808080;  // bit 7 of byte j: bit j
    uint64_t word;
    std::memcpy(&word, codes + 8 * i, 8);
    word |= set >> 3;
    std::memcpy(codes + 8 * i, &word, 8);
  }
}

// At `offset` 4 bytes with bit 4 of column c in bit c, then nibbles.
void PutFiveBits(const Source& from, int offset, uint8_t* to) {
  const Tile tile(from, [offset](const uint8_t* block, uint8_t* codes) {
    const uint8_t* const qs = block + offset + 4;
    for (int i = 0; i < 16; ++i) {
      codes[i] = qs[i] & 15;
      codes[16 + i] = qs[i] >> 4;
    }
    uint32_t bits;
    std::memcpy(&bits, block + offset, 4);
    AddFifthBits(bits, codes);
  });
  tile.PutNibbles(to);
  tile.PutBits(4, to + 256);
}

// --- K-quants: super-blocks of 256 ---

// 12 bytes at `offset` of 6-bit scales and minima, 8 of each (Q4_K, Q5_K).
void PutSixBitScales(const Source& from, int offset, uint8_t* to) {
  const int sub = from.sub;
  for (int lane = 0; lane < from.rows; ++lane) {
    const uint8_t* const packed = from.Row(lane) + offset;
    if (sub < 4) {
      to[lane] = packed[sub] & 63;
      to[kLanes + lane] = packed[sub + 4] & 63;
    } else {
      to[lane] = static_cast<uint8_t>((packed[sub + 4] & 15) | (packed[sub - 4] >> 6) << 4);
      to[kLanes + lane] = static_cast<uint8_t>((packed[sub + 4] >> 4) | (packed[sub] >> 6) << 4);
    }
  }
}

// The spreads below work on eight bytes at a time: a shift moves bits of a neighbour in, which the mask
// drops.
constexpr uint64_t EachByte(uint64_t byte) { return byte * 0x0101010101010101; }

// Adds bits `shift` and up of 32 bytes, those of `mask`, to the codes at `to_bit`.
void AddBits(const uint8_t* from, int shift, uint64_t mask, int to_bit, uint8_t* codes) {
  for (int i = 0; i < 32; i += 8) {
    uint64_t bits;
    uint64_t word;
    std::memcpy(&bits, from + i, 8);
    std::memcpy(&word, codes + i, 8);
    word |= (bits >> shift & EachByte(mask)) << to_bit;
    std::memcpy(codes + i, &word, 8);
  }
}

// Bytes that hold 4 bits of 64 columns: low nibbles first.
void SpreadSuperNibbles(const uint8_t* qs, int sub, uint8_t* codes) {
  std::memset(codes, 0, 32);
  AddBits(qs + 32 * (sub / 2), 4 * (sub % 2), 15, 0, codes);
}

// Bytes that hold 2 bits of 128 columns.
void SpreadSuperPairs(const uint8_t* qs, int sub, int to_bit, uint8_t* codes) {
  std::memset(codes, 0, 32);
  AddBits(qs + 32 * (sub / 4), 2 * (sub % 4), 3, to_bit, codes);
}

// 32 bytes that hold a bit of 256 columns: added to the codes at `to_bit`.
void AddSuperBits(const uint8_t* qs, int sub, int to_bit, uint8_t* codes) {
  AddBits(qs, sub, 1, to_bit, codes);
}

// 16 bytes of scale and minimum (4 bits each), 64 of pairs, f16 d, f16 dmin.
bool PutQ2_K(const Source& from, const PackTarget& to) {
  const int sub = from.sub;
  const Tile tile(
      from, [sub](const uint8_t* block, uint8_t* codes) { SpreadSuperPairs(block + 16, sub, 0, codes); });
  tile.PutPairs(0, to.codes);
  PutBytePairs(from, 2 * sub, to.scales);
  return PutScaleAndMin(from, 80, to.supers);
}

// 32 bytes of bit 2, 64 of pairs, 12 of 16 scales + 32 of 6 bits (4 low bits of 16, then 2 high ones), f16 d.
bool PutQ3_K(const Source& from, const PackTarget& to) {
  const int sub = from.sub;
  const Tile tile(from, [sub](const uint8_t* block, uint8_t* codes) {
    SpreadSuperPairs(block + 32, sub, 0, codes);
    AddSuperBits(block, sub, 2, codes);
  });
  tile.PutPairs(0, to.codes);
  tile.PutBits(2, to.codes + 128);
  for (int lane = 0; lane < from.rows; ++lane) {
    const uint8_t* const packed = from.Row(lane) + 96;
    for (int half = 0; half < 2; ++half) {
      const int s = 2 * sub + half;
      const int low = packed[s % 8] >> (s / 8 * 4) & 15;
      const int high = packed[8 + s % 4] >> (s / 4 * 2) & 3;
      to.scales[2 * lane + half] = static_cast<uint8_t>((low | high << 4) - 32);
    }
  }
  return PutHalves(from, 108, to.supers);
}

// f16 d, f16 dmin, 12 bytes of scales and minima, 128 bytes of nibbles.
bool PutQ4_K(const Source& from, const PackTarget& to) {
  const int sub = from.sub;
  const Tile tile(
      from, [sub](const uint8_t* block, uint8_t* codes) { SpreadSuperNibbles(block + 16, sub, codes); });
  tile.PutNibbles(to.codes);
  PutSixBitScales(from, 4, to.scales);
  return PutScaleAndMin(from, 0, to.supers);
}

// As Q4_K, with 32 bytes of bit 4 before the nibbles.
bool PutQ5_K(const Source& from, const PackTarget& to) {
  const int sub = from.sub;
  const Tile tile(from, [sub](const uint8_t* block, uint8_t* codes) {
    SpreadSuperNibbles(block + 48, sub, codes);
    AddSuperBits(block + 16, sub, 4, codes);
  });
  tile.PutNibbles(to.codes);
  tile.PutBits(4, to.codes + 256);
  PutSixBitScales(from, 4, to.scales);
  return PutScaleAndMin(from, 0, to.supers);
}

// 128 bytes of low nibbles, 64 of high bits, 16 scales, f16 d. Each half of 128 columns: 32 l + i has its low
// nibble in byte 32 (l & 1) + i, low half of it for l < 2, and its high bits at 2 l of byte i.
bool PutQ6_K(const Source& from, const PackTarget& to) {
  const int sub = from.sub;
  const Tile tile(from, [sub](const uint8_t* block, uint8_t* codes) {
    const uint8_t* const low = block + 64 * (sub / 4) + 32 * (sub & 1);
    SpreadSuperPairs(block + 128, sub, 4, codes);
    AddBits(low, sub % 4 < 2 ? 0 : 4, 15, 0, codes);
  });
  tile.PutNibbles(to.codes);
  tile.PutPairs(4, to.codes + 256);
  PutBytePairs(from, 192 + 2 * sub, to.scales);
  return PutHalves(from, 208, to.supers);
}

}  // namespace

BlockParts Parts(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {64, 0, 0};
    case DType::kF16:
    case DType::kBF16:
      return {32, 0, 0};
    case DType::kQ4_0:
    case DType::kIQ4_NL:
      return {256, 32, 0};
    case DType::kMXFP4:
      return {256, 16, 0};
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

bool PackBlocks(DType dtype, const uint8_t* block, int64_t stride_bytes, int rows, int sub,
                const PackTarget& to) {
  const Source from = {block, stride_bytes, rows, sub};
  switch (dtype) {
    case DType::kQ4_0:
    case DType::kIQ4_NL:
      PutFourBits(from, 2, to.codes);
      return PutHalves(from, 0, to.scales);
    case DType::kMXFP4:
      PutFourBits(from, 1, to.codes);
      return PutExponents(from, to.scales);
    case DType::kQ5_0:
      PutFiveBits(from, 2, to.codes);
      return PutHalves(from, 0, to.scales);
    case DType::kQ8_0: {
      const Tile tile(from, [](const uint8_t* row, uint8_t* codes) { std::memcpy(codes, row + 2, 32); });
      tile.PutBytes(to.codes);
      return PutHalves(from, 0, to.scales);
    }
    case DType::kQ4_1:
      PutFourBits(from, 4, to.codes);
      return PutScaleAndMin(from, 0, to.scales);
    case DType::kQ5_1:
      PutFiveBits(from, 4, to.codes);
      return PutScaleAndMin(from, 0, to.scales);
    case DType::kQ2_K:
      return PutQ2_K(from, to);
    case DType::kQ3_K:
      return PutQ3_K(from, to);
    case DType::kQ4_K:
      return PutQ4_K(from, to);
    case DType::kQ5_K:
      return PutQ5_K(from, to);
    case DType::kQ6_K:
      return PutQ6_K(from, to);
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      break;
  }
  return false;
}

}  // namespace moepool
