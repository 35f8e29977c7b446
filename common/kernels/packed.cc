// See packed.h.
#include "common/kernels/packed.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "common/base/aligned_bytes.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/kernels/pack_blocks.h"

namespace moepool {
namespace {

constexpr int kSubBlocks = 8;  // 32-column blocks in a super-block of a K-quant

bool ElementFinite(DType dtype, const uint8_t* p) {
  if (dtype == DType::kF16) return HalfIsFinite(LoadLittle16(p));
  const uint8_t* const top = p + (dtype == DType::kF32 ? 2 : 0);  // F32 and BF16 share the upper 16 bits
  return (LoadLittle16(top) & 0x7f80) != 0x7f80;
}

const uint8_t* RowData(const MatrixView& view, int64_t row) {
  return reinterpret_cast<const uint8_t*>(view.data) + row * view.row_stride_bytes;
}

absl::Status NotFinite(const MatrixView& view, int64_t row, int64_t col) {
  const DTypeInfo& info = Info(view.dtype);
  std::string what = "is not finite";
  if (view.dtype == DType::kMXFP4) {
    const int scale = RowData(view, row)[col / info.block_cols * info.block_bytes];
    what = StrCat("is E8M0 ", scale, scale == 255 ? ", NaN" : ", with which its weights are not finite");
  }
  return absl::DataLossError(StrCat(info.name, " matrix of ", view.rows, " x ", view.cols,
                                    ": the scale at row ", row, ", column ", col, " ", what));
}

// Rows [row, row + rows) as [column][16]. Whether all are finite.
template <typename Element>
bool PackPlainGroup(const MatrixView& view, int64_t row, int rows, Element exponent, uint8_t* to) {
  bool finite = true;
  const uint8_t* const from = RowData(view, row) + view.col_begin * static_cast<int64_t>(sizeof(Element));
  for (int64_t c = 0; c < view.cols; ++c) {
    for (int lane = 0; lane < rows; ++lane) {
      Element element;
      std::memcpy(&element, from + lane * view.row_stride_bytes + c * static_cast<int64_t>(sizeof element),
                  sizeof element);
      finite &= (element & exponent) != exponent;
      std::memcpy(to + (c * kGroupRows + lane) * static_cast<int64_t>(sizeof element), &element,
                  sizeof element);
    }
  }
  return finite;
}

bool PackPlainGroup(const MatrixView& view, int64_t row, int rows, uint8_t* to) {
  if (view.dtype == DType::kF32) return PackPlainGroup<uint32_t>(view, row, rows, 0x7f800000, to);
  return PackPlainGroup<uint16_t>(view, row, rows, view.dtype == DType::kF16 ? 0x7c00 : 0x7f80, to);
}

// Which of the rows [row, row + rows) has the value that is not finite.
absl::Status FindNotFinite(const MatrixView& view, int64_t row, int rows) {
  for (int64_t r = row; r < row + rows; ++r) {
    for (int64_t c = view.col_begin; c < view.col_begin + view.cols; ++c) {
      const uint8_t* const element = RowData(view, r) + c * Info(view.dtype).block_bytes;
      if (!ElementFinite(view.dtype, element)) return NotFinite(view, r, c);
    }
  }
  return NotFinite(view, row, view.col_begin);
}

}  // namespace

absl::StatusOr<PackedMatrix> PlanPack(const MatrixView& view) {
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
  PackedWeights& w = m.weights;
  w.blocks = info.quantized ? view.cols / kQuantBlock : view.cols;
  const int64_t sub_blocks = info.block_cols / kQuantBlock;  // 0 for plain types, 1, or 8
  w.first_sub_block = sub_blocks > 1 ? view.col_begin / kQuantBlock % kSubBlocks : 0;
  const int64_t supers = (w.first_sub_block + w.blocks + kSubBlocks - 1) / kSubBlocks;
  const BlockParts parts = Parts(view.dtype);
  const int64_t bytes = w.blocks * (parts.scales + parts.codes) + (w.blocks == 0 ? 0 : supers) * parts.supers;
  w.group_bytes = (bytes + 63) / 64 * 64;
  return m;
}

absl::Status PackInto(const MatrixView& view, const PackedMatrix& m, std::byte* to) {
  const DTypeInfo& info = Info(view.dtype);
  const BlockParts parts = Parts(view.dtype);
  const PackedWeights& w = m.weights;
  const int64_t sub_blocks = info.block_cols / kQuantBlock;
  for (int64_t row = 0; row < view.rows; row += kGroupRows) {
    auto* const group = reinterpret_cast<uint8_t*>(to) + row / kGroupRows * w.group_bytes;
    const int rows = static_cast<int>(std::min<int64_t>(kGroupRows, view.rows - row));
    if (!info.quantized) {
      if (!PackPlainGroup(view, row, rows, group)) return FindNotFinite(view, row, rows);
      continue;
    }
    uint8_t* at = group;
    uint8_t* supers = group;
    for (int64_t b = 0; b < w.blocks; ++b) {
      const int64_t file_block = view.col_begin / kQuantBlock + b;
      if (b == 0 || (w.first_sub_block + b) % kSubBlocks == 0) {
        supers = at;
        at += parts.supers;
      }
      const PackTarget target = {at + parts.scales, at, supers};
      at += parts.scales + parts.codes;
      const auto pack = [&](int64_t first, int count) {
        return PackBlocks(view.dtype, RowData(view, first) + file_block / sub_blocks * info.block_bytes,
                          view.row_stride_bytes, count, static_cast<int>(file_block % sub_blocks), target);
      };
      if (pack(row, rows)) continue;
      int64_t bad = row;
      while (bad + 1 < row + rows && pack(bad, 1)) ++bad;
      return NotFinite(view, bad, file_block * kQuantBlock);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<PackedMatrix> Pack(const MatrixView& view) {
  MOEPOOL_ASSIGN_OR_RETURN(PackedMatrix m, PlanPack(view));
  MOEPOOL_ASSIGN_OR_RETURN(AlignedBytes bytes,
                           AlignedBytes::Create(static_cast<size_t>(m.bytes()), "weights"));
  MOEPOOL_RETURN_IF_ERROR(PackInto(view, m, bytes.data()));
  m.weights.data = reinterpret_cast<const uint8_t*>(bytes.data());
  m.owner = std::make_shared<const AlignedBytes>(std::move(bytes));
  return m;
}

}  // namespace moepool
