// See packed.h.
#include "common/kernels/packed.h"

#include <cstring>
#include <utility>

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
      const PackTarget to = {group + b * plane.codes, group + w.scales_offset + b * plane.scales,
                             group + w.supers_offset + (w.first_sub_block + b) / kSubBlocks * plane.supers,
                             static_cast<int>(row % kGroupRows)};
      const uint8_t* const block = from + file_block / sub_blocks * info.block_bytes;
      if (!PackBlock(view.dtype, block, static_cast<int>(file_block % sub_blocks), to)) {
        return NotFinite(view, row, file_block * kQuantBlock);
      }
    }
  }
  return m;
}

}  // namespace moepool
