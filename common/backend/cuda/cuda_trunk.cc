// TrunkOps on a GPU.
#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/backend/cuda/cuda_attention.h"
#include "common/backend/cuda/cuda_backend.h"
#include "common/backend/cuda/cuda_graphs.h"
#include "common/base/status_macros.h"
#include "common/tensor/matrix_view.h"

namespace moepool {
namespace {

RowForms RowsOf(const Activations& x) { return {x.f32, x.q, x.scale}; }

const DeviceWeights& WeightsOf(const Matrix& matrix) {
  return static_cast<const CudaMatrix&>(matrix).weights();
}

class CudaTrunkOps final : public ReservingTrunkOps {
 public:
  CudaTrunkOps(CudaContext* context, size_t most_graph_pieces)
      : context_(*context),
        attention_(context),
        graphs_(context, most_graph_pieces),
        uploaded_(context),
        fetched_(&context->device()) {}

  absl::Status Reserve(const ModelConfig& config, const LargestCall& call) override {
    MutexLock lock(&context_.mutex());
    const size_t rows = static_cast<size_t>(call.rows);
    const size_t parts = rows * static_cast<size_t>(call.experts_per_row);
    const size_t part_bytes =
        static_cast<size_t>(config.hidden) * sizeof(float) + sizeof(PlannedAdd) + sizeof(float*);
    MOEPOOL_RETURN_IF_ERROR(uploaded_.Reserve(parts * part_bytes + rows * sizeof(CombineRow) + 1024));
    return attention_.Reserve(config, call.rows);
  }

  void Embed(const MatrixView& table, std::span<const int32_t> ids, float* x) override {
    MutexLock lock(&context_.mutex());
    const size_t bytes = ids.size() * static_cast<size_t>(table.cols) * sizeof(float);
    auto* const rows = reinterpret_cast<float*>(context_.Stage(bytes));
    for (size_t i = 0; i < ids.size(); ++i) DequantizeRow(table, ids[i], rows + i * table.cols);
    context_.device().Copy(x, rows, bytes);
  }

  void Norm(const NormWeights& norm, const float* x, Activations* y, RowFaults faults) override {
    MutexLock lock(&context_.mutex());
    NormArgs args;
    args.kind = norm.kind;
    args.weight = norm.weight;
    args.bias = norm.bias;
    args.eps = norm.eps;
    args.x = x;
    args.y = RowsOf(*y);
    args.rows = y->rows;
    args.cols = y->cols;
    args.faults = context_.Report(faults.subspan(0, static_cast<size_t>(y->rows)));
    const bool apart = !context_.fused() && args.y.q != nullptr;
    if (apart) args.y.q = nullptr;
    context_.kernels().norm(args, Stream());
    if (apart) context_.kernels().quantize({RowsOf(*y), args.rows, args.cols, args.faults}, Stream());
  }

  void Quantize(Activations* y, RowFaults faults) override {
    MutexLock lock(&context_.mutex());
    QuantizeArgs args;
    args.y = RowsOf(*y);
    args.rows = y->rows;
    args.cols = y->cols;
    args.faults = context_.Report(faults.subspan(0, static_cast<size_t>(y->rows)));
    context_.kernels().quantize(args, Stream());
  }

  void MatMuls(std::span<const Product> products, const Activations& x) override {
    MutexLock lock(&context_.mutex());
    const int most = context_.fused() ? kMaxProducts : 1;
    for (const bool quantized : {true, false}) {
      ProductsArgs args;
      args.x = RowsOf(x);
      args.rows = x.rows;
      for (const Product& product : products) {
        const DeviceWeights& w = WeightsOf(*product.w);
        if (Info(w.dtype).quantized != quantized) continue;
        MOEPOOL_CHECK(w.cols == x.cols);
        MOEPOOL_CHECK(x.rows == 0 || (quantized ? x.q != nullptr && x.scale != nullptr : x.f32 != nullptr));
        args.product[args.products++] = {w, product.bias, product.add, product.y, product.stride};
        if (args.products == most) Launch(quantized, &args);
      }
      if (args.products > 0) Launch(quantized, &args);
    }
  }

  void Attention(const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv, float* qkv,
                 float* out) override {
    MutexLock lock(&context_.mutex());
    attention_.Run(shape, batch, kv, qkv, out);
  }

  void Combine(const CombineBatch& batch, float* residual) override {
    MutexLock lock(&context_.mutex());
    const size_t hidden = static_cast<size_t>(batch.hidden);
    const auto stays = [&](size_t part) { return !batch.on_device.empty() && batch.on_device[part] != 0; };
    host_parts_.clear();
    for (size_t p = 0; p < batch.parts.size(); ++p) {
      if (!stays(p)) host_parts_.push_back(batch.parts[p]);
    }
    parts_.resize(batch.parts.size());
    const size_t copied = upload_.AddRows(host_parts_, hidden);
    const size_t parts = upload_.Add(parts_);
    const size_t adds = upload_.Add(batch.adds);
    const size_t rows = upload_.Add(batch.rows);
    upload_.Place(&uploaded_);
    float* next = upload_.At<float>(copied);
    for (size_t p = 0; p < parts_.size(); ++p) {
      parts_[p] = stays(p) ? const_cast<float*>(batch.parts[p]) : std::exchange(next, next + hidden);
    }
    upload_.Send(&context_, &uploaded_);
    CombineArgs args;
    args.parts = upload_.At<float* const>(parts);
    args.adds = upload_.At<const PlannedAdd>(adds);
    args.rows = upload_.At<const CombineRow>(rows);
    args.shared = batch.shared;
    args.residual = residual;
    args.count = static_cast<int32_t>(batch.rows.size());
    args.cols = static_cast<int32_t>(batch.hidden);
    context_.kernels().combine(args, Stream());
  }

  void Gather(std::span<const int32_t> rows, int64_t cols, float* x) override {
    MutexLock lock(&context_.mutex());
    const size_t place = upload_.Add(rows);
    upload_.Send(&context_, &uploaded_);
    GatherArgs args;
    args.x = x;
    args.rows = upload_.At<const int32_t>(place);
    args.count = static_cast<int32_t>(rows.size());
    args.cols = static_cast<int32_t>(cols);
    context_.kernels().gather(args, Stream());
  }

  void Pack(const Activations& x, std::span<const int32_t> rows, std::byte* to) override {
    if (rows.empty()) return;
    MutexLock lock(&context_.mutex());
    std::byte* const staged = context_.Stage(rows.size_bytes());
    std::memcpy(staged, rows.data(), rows.size_bytes());
    PackArgs args;
    args.x = RowsOf(x);
    args.rows = reinterpret_cast<const int32_t*>(staged);
    args.count = static_cast<int32_t>(rows.size());
    args.cols = static_cast<int32_t>(x.cols);
    args.to = to;
    context_.kernels().pack(args, Stream());
  }

  void Pick(std::span<const PickRow> rows, int64_t vocab, const float* logits, int32_t* ids) override {
    MutexLock lock(&context_.mutex());
    const size_t place = upload_.Add(rows);
    upload_.Send(&context_, &uploaded_);
    PickArgs args;
    args.logits = logits;
    args.rows = upload_.At<const PickRow>(place);
    args.ids = ids;
    args.count = static_cast<int32_t>(rows.size());
    args.vocab = static_cast<int32_t>(vocab);
    context_.kernels().pick(args, Stream());
  }

  void QueueSegment(const Segment& segment, absl::FunctionRef<void()> queue) override;
  SegmentStats Segments() override {
    MutexLock lock(&context_.mutex());
    return graphs_.stats();
  }

  void Fetch(std::span<Fetched> wanted) override {
    MutexLock lock(&context_.mutex());
    context_.Fetch(wanted, &fetched_);
  }

 private:
  void* Stream() { return context_.device().Stream(); }

  void Launch(bool quantized, ProductsArgs* args) {
    (quantized ? context_.kernels().quantized_products : context_.kernels().plain_products)(*args, Stream());
    args->products = 0;
  }

  CudaContext& context_;
  CudaAttention attention_;
  CudaGraphs graphs_;
  Upload upload_;
  DeviceScratch uploaded_;
  std::vector<const float*> host_parts_;  // of the call under way
  std::vector<float*> parts_;             // [parts] on the device
  HostScratch fetched_;
};

// What is queued while it is recorded takes the mutex itself, one operation after the other.
void CudaTrunkOps::QueueSegment(const Segment& segment, absl::FunctionRef<void()> queue) {
  GraphKey key;
  bool recorded = false;
  {
    MutexLock lock(&context_.mutex());
    if (graphs_.Takes(segment.rows)) {
      MOEPOOL_CHECK(segment.batch->step != 0 && segment.batch->rows == segment.rows);
      key.number = segment.number;
      key.rows = segment.rows;
      key.first_row = segment.first_row;
      key.micro_batch = segment.batch->micro_batch;
      key.attention = attention_.Prepare(*segment.shape, *segment.batch);
      key.faults = context_.Report(segment.faults);
      if (graphs_.Launch(key)) return;
      recorded = graphs_.Begin(key);
    }
  }
  queue();
  if (!recorded) return;
  {
    MutexLock lock(&context_.mutex());
    if (graphs_.End(key)) return;
  }
  queue();
}

}  // namespace

std::unique_ptr<ReservingTrunkOps> MakeCudaTrunkOps(CudaContext* context, size_t most_graph_pieces) {
  return std::make_unique<CudaTrunkOps>(context, most_graph_pieces);
}

}  // namespace moepool
