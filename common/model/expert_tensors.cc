// See expert_tensors.h.
#include "common/model/expert_tensors.h"

#include <charconv>

#include "absl/status/status.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

constexpr std::string_view kMatrices[] = {"ffn_gate", "ffn_up", "ffn_down"};

std::string TensorName(const ModelConfig& config, int layer, std::string_view matrix) {
  return StrCat("blk.", layer, ".", matrix, config.dense() ? ".weight" : "_exps.weight");
}

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
  const std::string gate = TensorName(config, layer, "ffn_gate");
  const std::string up = TensorName(config, layer, "ffn_up");
  const std::string down = TensorName(config, layer, "ffn_down");
  ExpertTensors out;
  if (config.dense()) {
    const SliceRange slice = DenseSlice(config.ffn, expert);
    MOEPOOL_ASSIGN_OR_RETURN(out.gate, OpenRows(source, gate, slice.begin, slice.end, &out.owners));
    MOEPOOL_ASSIGN_OR_RETURN(out.up, OpenRows(source, up, slice.begin, slice.end, &out.owners));
    MOEPOOL_ASSIGN_OR_RETURN(out.down, OpenColumns(source, down, slice, &out.owners));
    return out;
  }
  const int64_t ffn = config.ffn;
  const int64_t hidden = config.hidden;
  MOEPOOL_ASSIGN_OR_RETURN(out.gate, OpenRows(source, gate, expert * ffn, (expert + 1) * ffn, &out.owners));
  MOEPOOL_ASSIGN_OR_RETURN(out.up, OpenRows(source, up, expert * ffn, (expert + 1) * ffn, &out.owners));
  MOEPOOL_ASSIGN_OR_RETURN(out.down,
                           OpenRows(source, down, expert * hidden, (expert + 1) * hidden, &out.owners));
  return out;
}

bool IsExpertTensor(const ModelConfig& config, std::string_view name) {
  constexpr std::string_view kPrefix = "blk.";
  if (name.substr(0, kPrefix.size()) != kPrefix) return false;
  int layer = 0;
  const auto [end, error] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  if (error != std::errc() || layer < 0 || layer >= config.layers) return false;
  for (const std::string_view matrix : kMatrices) {
    if (name == TensorName(config, layer, matrix)) return true;
  }
  return false;
}

std::vector<uint64_t> ExpertBytes(const ModelSource& source) {
  const ModelConfig& config = source.Config();
  std::vector<uint64_t> bytes(static_cast<size_t>(config.layers) * config.experts);
  for (int layer = 0; layer < config.layers; ++layer) {
    for (const std::string_view matrix : kMatrices) {
      const TensorInfo* tensor = source.Find(TensorName(config, layer, matrix));
      if (tensor == nullptr) continue;
      // An expert's share of each matrix is its share of the intermediate columns, whichever way these run.
      const uint64_t column_bytes = tensor->bytes / static_cast<uint64_t>(config.ffn);
      for (int e = 0; e < config.experts; ++e) {
        bytes[static_cast<size_t>(layer) * config.experts + e] +=
            config.dense() ? column_bytes * static_cast<uint64_t>(ExpertFfn(config, e))
                           : tensor->bytes / static_cast<uint64_t>(config.experts);
      }
    }
  }
  return bytes;
}

}  // namespace moepool
