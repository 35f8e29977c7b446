// See packed.h.
#include "common/kernels/packed.h"

#include <bit>
#include <cstring>
#include <utility>

#include "common/base/str.h"

namespace moepool {
namespace {

constexpr int kSubBlocks = 8;  // 32-column blocks in a super-block of a K-quant

// Bytes of one group and block in each plane; for unquantised types of one column.
struct PlaneBytes {
  int64_t codes;
  int64_t scales;
  int64_t supers;  // of a super-block
};

PlaneBytes Planes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {64, 0, 0};
    case DType::kF16:
    case DType::kBF16:
      return {32, 0, 0};
    case DType::kQ8_0:
      return {512, 32, 0};
    case DType::kQ4_0:
      return {256, 32, 0};
    case DType::kQ4_1:
      return {256, 64, 0};
    case DType::kQ4_K:
      return {256, 32, 64};
    case DType::kQ6_K:
      return {384, 32, 32};
  }
  return {};
}

uint16_t Load16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

bool HalfFinite(uint16_t h) { return (h & 0x7c00) != 0x7c00; }

// Where one row's share of a group and block goes.
struct Target {
  uint8_t* codes;
  uint8_t* scales;
  uint8_t* supers;
  int lane;
};

void PutHalf(uint8_t* plane, int lane, uint16_t h) { std::memcpy(plane + 2 * lane, &h, sizeof h); }

// codes[32] of 4 bits (or the low 4 of 6).
void PutNibbles(const uint8_t* codes, const Target& to) {
  for (int v = 0; v < 4; ++v) {
    for (int i = 0; i < 4; ++i) {
      to.codes[64 * v + 4 * to.lane + i] =
          static_cast<uint8_t>((codes[4 * v + i] & 15) | (codes[4 * (v + 4) + i] & 15) << 4);
    }
  }
}

void PutHighBits(const uint8_t* codes, const Target& to) {
  for (int quad = 0; quad < 8; ++quad) {
    for (int i = 0; i < 4; ++i) {
      to.codes[256 + 64 * (quad & 1) + 4 * to.lane + i] |=
          static_cast<uint8_t>((codes[4 * quad + i] >> 4) << (2 * (quad >> 1)));
    }
  }
}

// Each returns whether the block's scales are finite. `block` is the file's own, `sub` the 32 columns within
// it.
bool PutQ8_0(const uint8_t* block, const Target& to) {
  for (int c = 0; c < 32; ++c) to.codes[64 * (c / 4) + 4 * to.lane + c % 4] = block[2 + c];
  PutHalf(to.scales, to.lane, Load16(block));
  return HalfFinite(Load16(block));
}

void SplitNibbles(const uint8_t* qs, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = qs[i] & 15;
    codes[16 + i] = qs[i] >> 4;
  }
}

bool PutQ4_0(const uint8_t* block, const Target& to) {
  uint8_t codes[32];
  SplitNibbles(block + 2, codes);
  PutNibbles(codes, to);
  PutHalf(to.scales, to.lane, Load16(block));
  return HalfFinite(Load16(block));
}

bool PutQ4_1(const uint8_t* block, const Target& to) {
  uint8_t codes[32];
  SplitNibbles(block + 4, codes);
  PutNibbles(codes, to);
  PutHalf(to.scales, to.lane, Load16(block));
  PutHalf(to.scales + 32, to.lane, Load16(block + 2));
  return HalfFinite(Load16(block)) && HalfFinite(Load16(block + 2));
}

// f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 128 bytes of codes: 64 columns share 32 bytes, low
// nibbles first.
bool PutQ4_K(const uint8_t* block, int sub, const Target& to) {
  const uint8_t* const packed = block + 4;
  uint8_t scale;
  uint8_t min;
  if (sub < 4) {
    scale = packed[sub] & 63;
    min = packed[sub + 4] & 63;
  } else {
    scale = static_cast<uint8_t>((packed[sub + 4] & 15) | (packed[sub - 4] >> 6) << 4);
    min = static_cast<uint8_t>((packed[sub + 4] >> 4) | (packed[sub] >> 6) << 4);
  }
  const uint8_t* const qs = block + 16 + 32 * (sub / 2);
  uint8_t codes[32];
  for (int i = 0; i < 32; ++i) codes[i] = sub % 2 == 0 ? qs[i] & 15 : qs[i] >> 4;
  PutNibbles(codes, to);
  to.scales[to.lane] = scale;
  to.scales[16 + to.lane] = min;
  PutHalf(to.supers, to.lane, Load16(block));
  PutHalf(to.supers + 32, to.lane, Load16(block + 2));
  return HalfFinite(Load16(block)) && HalfFinite(Load16(block + 2));
}

// 128 bytes of low nibbles, 64 of high bits, 16 scales, f16 d. Each half of 128 columns: 32 l + i has its low
// nibble in byte 32 (l & 1) + i, low half of it for l < 2, and its high bits at 2 l of byte i.
bool PutQ6_K(const uint8_t* block, int sub, const Target& to) {
  const int half = sub / 4;
  const int l = sub % 4;
  const uint8_t* const low = block + 64 * half + 32 * (l & 1);
  const uint8_t* const high = block + 128 + 32 * half;
  uint8_t codes[32];
  for (int i = 0; i < 32; ++i) {
    const int nibble = l < 2 ? low[i] & 15 : low[i] >> 4;
    codes[i] = static_cast<uint8_t>(nibble | ((high[i] >> (2 * l)) & 3) << 4);
  }
  PutNibbles(codes, to);
  PutHighBits(codes, to);
  to.scales[2 * to.lane] = block[192 + 2 * sub];
  to.scales[2 * to.lane + 1] = block[192 + 2 * sub + 1];
  PutHalf(to.supers, to.lane, Load16(block + 208));
  return HalfFinite(Load16(block + 208));
}

bool PutBlock(DType dtype, const uint8_t* block, int sub, const Target& to) {
  switch (dtype) {
    case DType::kQ8_0:
      return PutQ8_0(block, to);
    case DType::kQ4_0:
      return PutQ4_0(block, to);
    case DType::kQ4_1:
      return PutQ4_1(block, to);
    case DType::kQ4_K:
      return PutQ4_K(block, sub, to);
    case DType::kQ6_K:
      return PutQ6_K(block, sub, to);
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      break;
  }
  return false;
}

bool ElementFinite(DType dtype, const uint8_t* p) {
  if (dtype == DType::kF16) return HalfFinite(Load16(p));
  const uint8_t* const top = p + (dtype == DType::kF32 ? 2 : 0);  // F32 and BF16 share the upper 16 bits
  return (Load16(top) & 0x7f80) != 0x7f80;
}

absl::Status NotFinite(const MatrixView& view, int64_t row, int64_t col) {
  return absl::DataLossError(StrCat(Info(view.dtype).name, " matrix of ", view.rows, " x ", view.cols,
                                    ": the scale at row ", row, ", column ", col, " is not finite"));
}

absl::Status PackPlain(const MatrixView& view, uint8_t* data, int64_t group_bytes) {
  const int64_t element = Info(view.dtype).block_bytes;
  for (int64_t row = 0; row < view.rows; ++row) {
    const auto* from =
        reinterpret_cast<const uint8_t*>(view.data) + row * view.row_stride_bytes + view.col_begin * element;
    uint8_t* to = data + row / kGroupRows * group_bytes + row % kGroupRows * element;
    for (int64_t c = 0; c < view.cols; ++c, from += element, to += kGroupRows * element) {
      if (!ElementFinite(view.dtype, from)) return NotFinite(view, row, view.col_begin + c);
      std::memcpy(to, from, element);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PackedMatrix> Pack(const MatrixView& view) {
  const DTypeInfo& info = Info(view.dtype);
  if (view.rows < 0 || view.cols < 0 || view.col_begin < 0) {
    return absl::InvalidArgumentError(
        StrCat(info.name, " matrix of ", view.rows, " x ", view.cols, " at column ", view.col_begin));
  }
  if (info.quantized && (view.cols % kQuantBlock != 0 || view.col_begin % kQuantBlock != 0)) {
    return absl::InvalidArgumentError(StrCat(info.name, " matrix of ", view.cols, " columns at column ",
                                             view.col_begin, ": both must be multiples of ", kQuantBlock));
  }
  PackedMatrix m;
  m.dtype = view.dtype;
  m.rows = view.rows;
  m.cols = view.cols;
  const PlaneBytes plane = Planes(view.dtype);
  PackedWeights& w = m.weights;
  w.blocks = info.quantized ? view.cols / kQuantBlock : view.cols;
  const int64_t sub_blocks = info.block_cols / kQuantBlock;  // 0 for plain types, 1, or 8
  w.first_sub_block = sub_blocks > 1 ? view.col_begin / kQuantBlock % kSubBlocks : 0;
  const int64_t supers = (w.first_sub_block + w.blocks + kSubBlocks - 1) / kSubBlocks;
  const auto align = [](int64_t n) { return (n + 63) / 64 * 64; };
  w.scales_offset = align(w.blocks * plane.codes);
  w.supers_offset = w.scales_offset + align(w.blocks * plane.scales);
  w.group_bytes = w.supers_offset + align((w.blocks == 0 ? 0 : supers) * plane.supers);

  auto bytes = AlignedBytes::Create(static_cast<size_t>(m.groups() * w.group_bytes), "weights");
  if (!bytes.ok()) return std::move(bytes).status();
  m.bytes = *std::move(bytes);
  auto* const data = reinterpret_cast<uint8_t*>(m.bytes.data());
  w.data = data;
  if (!info.quantized) {
    if (absl::Status status = PackPlain(view, data, w.group_bytes); !status.ok()) return status;
    return m;
  }
  for (int64_t row = 0; row < view.rows; ++row) {
    const auto* const from = reinterpret_cast<const uint8_t*>(view.data) + row * view.row_stride_bytes;
    uint8_t* const group = data + row / kGroupRows * w.group_bytes;
    for (int64_t b = 0; b < w.blocks; ++b) {
      const int64_t file_block = view.col_begin / kQuantBlock + b;
      const Target to = {group + b * plane.codes, group + w.scales_offset + b * plane.scales,
                         group + w.supers_offset + (w.first_sub_block + b) / kSubBlocks * plane.supers,
                         static_cast<int>(row % kGroupRows)};
      const uint8_t* const block = from + file_block / sub_blocks * info.block_bytes;
      if (!PutBlock(view.dtype, block, static_cast<int>(file_block % sub_blocks), to)) {
        return NotFinite(view, row, file_block * kQuantBlock);
      }
    }
  }
  return m;
}

}  // namespace moepool
