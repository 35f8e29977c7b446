// See expert_tensors.h.
#include "common/model/expert_tensors.h"

#include <charconv>

#include "absl/status/status.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

constexpr std::string_view kMatrices[] = {"ffn_gate", "ffn_up", "ffn_down"};

absl::StatusOr<const TensorInfo*> FindTensor(const ModelSource& source, const std::string& name) {
  const TensorInfo* tensor = source.Find(name);
  if (tensor == nullptr) return absl::NotFoundError(StrCat("tensor '", name, "' is missing"));
  return tensor;
}

// Rows [begin, end) of every row of all the tensor's matrices, counted through.
absl::StatusOr<MatrixView> OpenRows(const ModelSource& source, const std::string& name, int64_t begin,
                                    int64_t end, std::vector<TensorBytes>* owners) {
  MOEPOOL_ASSIGN_OR_RETURN(const TensorInfo* tensor, FindTensor(source, name));
  MatrixView view;
  view.dtype = tensor->dtype;
  view.rows = end - begin;
  view.cols = tensor->dims[0];
  view.row_stride_bytes = RowBytes(tensor->dtype, tensor->dims[0]);
  if (view.rows == 0) return view;
  MOEPOOL_ASSIGN_OR_RETURN(TensorBytes range,
                           source.Range(name, static_cast<uint64_t>(begin * view.row_stride_bytes),
                                        static_cast<uint64_t>(view.rows * view.row_stride_bytes)));
  view.data = range.bytes.data();
  owners->push_back(std::move(range));
  return view;
}

// Columns [begin, end) of all rows of a dense down projection.
absl::StatusOr<MatrixView> OpenColumns(const ModelSource& source, const std::string& name, SliceRange columns,
                                       std::vector<TensorBytes>* owners) {
  MOEPOOL_ASSIGN_OR_RETURN(const TensorInfo* tensor, FindTensor(source, name));
  const int64_t rows = columns.begin == columns.end ? 0 : tensor->dims[1];
  MOEPOOL_ASSIGN_OR_RETURN(MatrixView view, OpenRows(source, name, 0, rows, owners));
  view.rows = tensor->dims[1];
  view.cols = columns.end - columns.begin;
  view.col_begin = columns.begin;
  return view;
}

}  // namespace

absl::StatusOr<ExpertTensors> OpenExpert(const ModelSource& source, int layer, int expert) {
  const ModelConfig& config = source.Config();
  if (layer < 0 || layer >= config.layers) {
    return absl::InvalidArgumentError(StrCat("layer ", layer, " of a model of ", config.layers));
  }
  if (expert < 0 || expert >= config.experts) {
    return absl::InvalidArgumentError(StrCat("expert ", expert, " of a model of ", config.experts));
  }
  const bool split = SplitExperts(config, source, layer);
  const auto name = [&](std::string_view matrix) {
    return ExpertTensorName(config, layer, matrix, split ? expert : kAllExperts);
  };
  ExpertTensors out;
  out.gate_key = {&source, name("ffn_gate"), 0};
  out.up_key = {&source, name("ffn_up"), 0};
  out.down_key = {&source, name("ffn_down"), 0};
  const auto open_rows = [&](WeightKey* key, int64_t begin, int64_t end) {
    key->row_begin = begin;
    return OpenRows(source, key->tensor, begin, end, &out.owners);
  };
  if (config.dense()) {
    const SliceRange slice = DenseSlice(config.ffn, expert);
    MOEPOOL_ASSIGN_OR_RETURN(out.gate, open_rows(&out.gate_key, slice.begin, slice.end));
    MOEPOOL_ASSIGN_OR_RETURN(out.up, open_rows(&out.up_key, slice.begin, slice.end));
    MOEPOOL_ASSIGN_OR_RETURN(out.down, OpenColumns(source, out.down_key.tensor, slice, &out.owners));
    return out;
  }
  const int64_t ffn = config.ffn;
  const int64_t hidden = config.hidden;
  const int64_t at = split ? 0 : expert;
  MOEPOOL_ASSIGN_OR_RETURN(out.gate, open_rows(&out.gate_key, at * ffn, (at + 1) * ffn));
  MOEPOOL_ASSIGN_OR_RETURN(out.up, open_rows(&out.up_key, at * ffn, (at + 1) * ffn));
  MOEPOOL_ASSIGN_OR_RETURN(out.down, open_rows(&out.down_key, at * hidden, (at + 1) * hidden));
  return out;
}

absl::StatusOr<bool> ExpertsReadQuantized(const ModelSource& source, int layer) {
  const ModelConfig& config = source.Config();
  const bool split = SplitExperts(config, source, layer);
  const TensorInfo* first = nullptr;
  for (int e = split ? 0 : kAllExperts; e < (split ? config.experts : 0); ++e) {
    for (const std::string_view matrix : {"ffn_gate", "ffn_up"}) {
      MOEPOOL_ASSIGN_OR_RETURN(const TensorInfo* tensor,
                               FindTensor(source, ExpertTensorName(config, layer, matrix, e)));
      if (first == nullptr) first = tensor;
      if (Info(tensor->dtype).quantized == Info(first->dtype).quantized) continue;
      return absl::UnimplementedError(StrCat("tensor ", first->name, " is of type ", Info(first->dtype).name,
                                             " and ", tensor->name, " of ", Info(tensor->dtype).name,
                                             ": one row cannot be sent in a form that both read"));
    }
  }
  return Info(first->dtype).quantized;
}

bool IsExpertTensor(const ModelConfig& config, std::string_view name) {
  constexpr std::string_view kPrefix = "blk.";
  if (name.substr(0, kPrefix.size()) != kPrefix) return false;
  int layer = 0;
  const auto [end, error] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  if (error != std::errc() || layer < 0 || layer >= config.layers) return false;
  for (const std::string_view matrix : kMatrices) {
    if (name == ExpertTensorName(config, layer, matrix, kAllExperts)) return true;
    if (config.dense()) continue;
    // blk.N.<matrix>.E.weight
    const std::string prefix = StrCat("blk.", layer, ".", matrix, ".");
    if (name.substr(0, prefix.size()) != prefix) continue;
    int expert = 0;
    const auto parsed = std::from_chars(name.data() + prefix.size(), name.data() + name.size(), expert);
    if (parsed.ec == std::errc() && expert >= 0 && expert < config.experts &&
        name == ExpertTensorName(config, layer, matrix, expert)) {
      return true;
    }
  }
  return false;
}

std::vector<uint64_t> ExpertBytes(const ModelSource& source) {
  const ModelConfig& config = source.Config();
  std::vector<uint64_t> bytes(static_cast<size_t>(config.layers) * config.experts);
  for (int layer = 0; layer < config.layers; ++layer) {
    uint64_t* const of_layer = &bytes[static_cast<size_t>(layer) * config.experts];
    const bool split = SplitExperts(config, source, layer);
    for (const std::string_view matrix : kMatrices) {
      const TensorInfo* merged = source.Find(ExpertTensorName(config, layer, matrix, kAllExperts));
      for (int e = 0; e < config.experts; ++e) {
        const TensorInfo* tensor = split ? source.Find(ExpertTensorName(config, layer, matrix, e)) : merged;
        if (tensor == nullptr) continue;
        // A slice's share of each matrix is its share of the intermediate columns, whichever way these run.
        of_layer[e] += config.dense() ? tensor->bytes / static_cast<uint64_t>(config.ffn) *
                                            static_cast<uint64_t>(ExpertFfn(config, e))
                                      : tensor->bytes / static_cast<uint64_t>(split ? 1 : config.experts);
      }
    }
  }
  return bytes;
}

}  // namespace moepool
