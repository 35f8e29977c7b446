// TrunkOps on the CPU.
#include <algorithm>
#include <memory>
#include <vector>

#include "common/backend/cpu/attention.h"
#include "common/backend/cpu/cpu_backend.h"
#include "common/backend/cpu/matmul.h"
#include "common/backend/cpu/scratch.h"
#include "common/base/status_macros.h"
#include "common/tensor/matrix_view.h"

namespace moepool {
namespace {

constexpr int64_t kRowsAtOnce = 4;       // of norms and copies handed to a thread
constexpr int64_t kTileFloats = 4096;    // 16 KiB of stack; at least 4 groups of the most tokens in a chunk
constexpr int64_t kSerialFloats = 8192;  // below this a loop over rows is faster on the caller alone

static_assert(kTileFloats >= kGroupRows * MatMulChunks::kMaxTokens);

class CpuTrunkOps : public TrunkOps {
 public:
  explicit CpuTrunkOps(CpuDevice* device) : device_(device), attention_(device) {}

  void Embed(const MatrixView& table, std::span<const int32_t> ids, float* x) override {
    MutexLock lock(&device_->mutex);
    ForRows(static_cast<int64_t>(ids.size()), table.cols,
            [&](int64_t row) { DequantizeRow(table, ids[row], x + row * table.cols); });
  }

  void Norm(const NormWeights& norm, const float* x, Activations* y, RowFaults faults) override {
    MutexLock lock(&device_->mutex);
    const int64_t cols = y->cols;
    float* const plain = y->f32 != nullptr ? y->f32 : normed_.Get(y->rows * cols);
    ForRows(y->rows, cols, [&](int64_t row) {
      bool finite = device_->kernels.norm(norm, x + row * cols, cols, plain + row * cols);
      if (y->q != nullptr) finite = QuantizeRow(plain, row, y) && finite;
      if (!finite) faults[row] = 1;
    });
  }

  void Quantize(Activations* y, RowFaults faults) override {
    MutexLock lock(&device_->mutex);
    ForRows(y->rows, y->cols, [&](int64_t row) {
      if (!QuantizeRow(y->f32, row, y)) faults[row] = 1;
    });
  }

  void MatMuls(std::span<const Product> products, const Activations& x) override;

  void Attention(const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv, float* qkv,
                 float* out) override {
    MutexLock lock(&device_->mutex);
    attention_.Run(shape, batch, kv, qkv, out);
  }

  void Combine(const CombineBatch& batch, float* residual) override {
    MutexLock lock(&device_->mutex);
    ForRows(static_cast<int64_t>(batch.rows.size()), batch.hidden, [&](int64_t i) {
      CombineOne(batch, batch.rows[i], residual + batch.rows[i].row * batch.hidden);
    });
  }

  void Gather(std::span<const int32_t> rows, int64_t cols, float* x) override {
    for (size_t i = 0; i < rows.size(); ++i) {
      const size_t row = static_cast<size_t>(rows[i]);
      if (row != i) std::copy_n(x + row * cols, cols, x + i * cols);
    }
  }

  void Pack(const Activations& x, std::span<const int32_t> rows, std::byte* to) override {
    const size_t cols = static_cast<size_t>(x.cols);
    const auto gather = [&](const auto* from, size_t each, std::byte* out) {
      const size_t bytes = each * sizeof(*from);
      for (size_t i = 0; i < rows.size(); ++i) {
        std::memcpy(out + i * bytes, from + static_cast<size_t>(rows[i]) * each, bytes);
      }
    };
    if (x.q == nullptr) return gather(x.f32, cols, to);
    gather(x.q, cols, to);
    gather(x.scale, cols / kQuantBlock, to + rows.size() * cols);
  }

  void Pick(std::span<const PickRow> rows, int64_t vocab, const float* logits, int32_t* ids) override {
    MutexLock lock(&device_->mutex);
    device_->pool.ParallelFor(static_cast<int64_t>(rows.size()), [&](int64_t i) {
      const PickRow& row = rows[static_cast<size_t>(i)];
      ids[i] = PickId(row.params, {logits + row.row * vocab, static_cast<size_t>(vocab)});
    });
  }

  // A call here is work done, and not a launch.
  void QueueSegment(const Segment&, absl::FunctionRef<void()> queue) override { queue(); }

  void Fetch(std::span<Fetched> wanted) override { FetchInPlace(wanted); }

 private:
  template <typename Body>
  void ForRows(int64_t rows, int64_t cols, const Body& body) {
    if (rows * cols < kSerialFloats) {
      for (int64_t row = 0; row < rows; ++row) body(row);
      return;
    }
    device_->pool.ParallelFor((rows + kRowsAtOnce - 1) / kRowsAtOnce, [&](int64_t i) {
      const int64_t end = std::min(rows, (i + 1) * kRowsAtOnce);
      for (int64_t row = i * kRowsAtOnce; row < end; ++row) body(row);
    });
  }

  void CombineOne(const CombineBatch& batch, const CombineRow& row, float* residual) const;
  void MultiplyChunk(const Product& product, const MatMulChunk& chunk);

  bool QuantizeRow(const float* plain, int64_t row, Activations* y) const {
    const int64_t cols = y->cols;
    return device_->kernels.quantize(plain + row * cols, cols, y->q + row * cols,
                                     y->scale + row * (cols / kQuantBlock));
  }

  CpuDevice* const device_;
  CpuAttention attention_;
  PreparedRows prepared_;
  Scratch<int32_t> identity_;
  std::vector<MatMulChunks> chunks_;  // [products] of the call under way
  std::vector<int64_t> first_chunk_;  // [products + 1]
  Scratch<float> normed_;
};

// Strip by strip of columns: parts belong to the frames they came in, so they are added in a copy, which
// stays in the first-level cache.
void CpuTrunkOps::CombineOne(const CombineBatch& batch, const CombineRow& row, float* residual) const {
  const KernelTable& k = device_->kernels;
  const auto parts = batch.parts.subspan(row.parts_begin, row.parts_end - row.parts_begin);
  const auto adds = batch.adds.subspan(row.adds_begin, row.adds_end - row.adds_begin);
  MOEPOOL_CHECK(!parts.empty() && parts.size() <= kTileFloats);
  alignas(64) float tile[kTileFloats];
  const int64_t strip = std::min<int64_t>(kTileFloats / static_cast<int64_t>(parts.size()), batch.hidden);
  for (int64_t begin = 0; begin < batch.hidden; begin += strip) {
    const int64_t n = std::min(strip, batch.hidden - begin);
    for (size_t p = 0; p < parts.size(); ++p) std::copy_n(parts[p] + begin, n, tile + p * strip);
    for (const PlannedAdd& add : adds) k.add(tile + add.src * strip, n, tile + add.dst * strip);
    if (batch.shared != nullptr) k.add(batch.shared + row.row * batch.hidden + begin, n, tile);
    k.add(tile, n, residual + begin);
  }
}

void CpuTrunkOps::MultiplyChunk(const Product& product, const MatMulChunk& c) {
  const KernelTable& k = device_->kernels;
  const PackedMatrix& w = static_cast<const CpuMatrix&>(*product.w).packed();
  const auto matmul = k.matmul[static_cast<int>(w.dtype)];
  const int64_t tokens = c.token_end - c.token_begin;
  const ActivationRows rows = prepared_.Select(identity_.Get(0) + c.token_begin, tokens);
  if (product.add == nullptr && c.group_end * kGroupRows <= w.rows) {
    const int64_t begin = c.group_begin * kGroupRows;
    float* const y = product.y + c.token_begin * product.stride + begin;
    matmul(w.weights, c.group_begin, c.group_end, rows, y, product.stride);
    if (product.bias == nullptr) return;
    const int64_t width = c.group_end * kGroupRows - begin;
    for (int64_t t = 0; t < tokens; ++t) k.add(product.bias + begin, width, y + t * product.stride);
    return;
  }
  // Sums go to a tile first: the last group may hang over y's rows, and `add` may be y.
  alignas(64) float tile[kTileFloats];
  const int64_t tile_groups = kTileFloats / (kGroupRows * tokens);
  for (int64_t group = c.group_begin; group < c.group_end; group += tile_groups) {
    const int64_t group_end = std::min(c.group_end, group + tile_groups);
    const int64_t tile_cols = (group_end - group) * kGroupRows;
    matmul(w.weights, group, group_end, rows, tile, tile_cols);
    const int64_t begin = group * kGroupRows;
    const int64_t width = std::min(w.rows, group_end * kGroupRows) - begin;
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t at = (c.token_begin + t) * product.stride + begin;
      float* const sums = tile + t * tile_cols;
      float* const y = product.y + at;
      if (product.bias != nullptr) k.add(product.bias + begin, width, sums);
      if (product.add == nullptr) {
        std::copy_n(sums, width, y);
      } else {
        if (product.add != product.y) std::copy_n(product.add + at, width, y);
        k.add(sums, width, y);
      }
    }
  }
}

void CpuTrunkOps::MatMuls(std::span<const Product> products, const Activations& x) {
  MutexLock lock(&device_->mutex);
  bool quantized = false;
  chunks_.clear();
  first_chunk_.assign(1, 0);
  for (const Product& product : products) {
    const PackedMatrix& w = static_cast<const CpuMatrix&>(*product.w).packed();
    MOEPOOL_CHECK(w.cols == x.cols);
    const bool reads_q = Info(w.dtype).quantized;
    MOEPOOL_CHECK(x.rows == 0 || (reads_q ? x.q != nullptr && x.scale != nullptr : x.f32 != nullptr));
    quantized = quantized || reads_q;
    chunks_.emplace_back(w, x.rows, device_->pool.threads(), 1);
    first_chunk_.push_back(first_chunk_.back() + chunks_.back().count());
  }
  prepared_.Prepare(device_, x, quantized, device_->pool.threads());
  int32_t* const identity = identity_.Get(x.rows);
  for (int32_t i = 0; i < x.rows; ++i) identity[i] = i;
  device_->pool.ParallelFor(first_chunk_.back(), [&](int64_t i) {
    size_t p = 0;
    while (i >= first_chunk_[p + 1]) ++p;
    MultiplyChunk(products[p], chunks_[p].At(i - first_chunk_[p]));
  });
}

}  // namespace

std::unique_ptr<TrunkOps> MakeCpuTrunkOps(CpuDevice* device) { return std::make_unique<CpuTrunkOps>(device); }

}  // namespace moepool
