// A hostile model file: the container, the model's checks, what a person is shown of it, every tensor's first
// and last row, and the experts' matrices. Ranges are copies of exactly their size, so that a sanitizer sees
// the first byte past them; the report reads the same bytes as a file.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/model/checked_model.h"
#include "common/model/expert_tensors.h"
#include "common/model/gguf_reader.h"
#include "common/model/model_report.h"
#include "common/tensor/matrix_view.h"

namespace moepool {
namespace {

class MemorySource final : public ModelSource {
 public:
  MemorySource(std::span<const uint8_t> file, CheckedModel model) : file_(file), model_(std::move(model)) {}
  const ModelConfig& Config() const override { return model_.config; }
  const TokenizerSpec& Tokenizer() const override { return model_.tokenizer; }
  const std::vector<TensorInfo>& Tensors() const override { return model_.tensors.tensors(); }
  const TensorInfo* Find(std::string_view name) const override { return model_.tensors.Find(name); }
  absl::StatusOr<TensorBytes> Range(std::string_view name, uint64_t offset, uint64_t bytes) const override {
    const TensorInfo* tensor = Find(name);
    if (tensor == nullptr) return absl::NotFoundError(StrCat("tensor ", Quoted(name), " is missing"));
    MOEPOOL_RETURN_IF_ERROR(CheckRange(*tensor, offset, bytes));
    const uint64_t begin = model_.offsets[model_.tensors.IndexOf(*tensor)] + offset;
    MOEPOOL_CHECK(begin <= file_.size() && bytes <= file_.size() - begin);
    const std::shared_ptr<std::byte[]> copy(new std::byte[bytes]);
    std::memcpy(copy.get(), file_.data() + begin, bytes);
    return TensorBytes{{copy.get(), bytes}, copy};
  }
  absl::StatusOr<ModelDigest> Digest() const override { return ModelDigest{}; }

 private:
  const std::span<const uint8_t> file_;
  const CheckedModel model_;
};

// The row's values; what they are is the file's business.
void ReadRow(const MatrixView& matrix, int64_t row) {
  std::vector<float> values(static_cast<size_t>(matrix.cols));
  DequantizeRow(matrix, row, values.data());
}

void ReadTensors(const ModelSource& source) {
  for (const TensorInfo& tensor : source.Tensors()) {
    const auto all = source.Range(tensor.name, 0, tensor.bytes);
    MOEPOOL_CHECK(all.ok());
    MOEPOOL_CHECK(!source.Range(tensor.name, 1, tensor.bytes).ok());
    const int64_t rows = tensor.dims[1] * tensor.dims[2] * tensor.dims[3];
    const int64_t row_bytes = RowBytes(tensor.dtype, tensor.dims[0]);
    MOEPOOL_CHECK(rows > 0 && row_bytes > 0 &&
                  static_cast<uint64_t>(row_bytes) == tensor.bytes / static_cast<uint64_t>(rows));
    const MatrixView matrix{tensor.dtype, rows, tensor.dims[0], all->bytes.data(), row_bytes};
    ReadRow(matrix, 0);
    ReadRow(matrix, rows - 1);
  }
}

void ReadExperts(const ModelSource& source) {
  const ModelConfig& config = source.Config();
  MOEPOOL_CHECK(ExpertBytes(source).size() == static_cast<size_t>(config.layers) * config.experts);
  for (int layer = 0; layer < config.layers; ++layer) {
    const absl::StatusOr<bool> quantized = ExpertsReadQuantized(source, layer);
    MOEPOOL_CHECK(quantized.ok() || absl::IsUnimplemented(quantized.status()));
    for (const int expert : {0, config.experts / 2, config.experts - 1}) {
      const auto tensors = OpenExpert(source, layer, expert);
      if (!tensors.ok()) continue;
      for (const MatrixView* matrix : {&tensors->gate, &tensors->up, &tensors->down}) {
        if (matrix->rows == 0 || matrix->cols == 0) continue;
        ReadRow(*matrix, 0);
        ReadRow(*matrix, matrix->rows - 1);
      }
    }
  }
}

void Report(std::span<const uint8_t> file, bool served) {
  const int fd = memfd_create("model", MFD_CLOEXEC);
  MOEPOOL_CHECK(fd >= 0);
  MOEPOOL_CHECK(write(fd, file.data(), file.size()) == static_cast<ssize_t>(file.size()));
  const auto report = DescribeGguf(StrCat("/proc/self/fd/", fd));
  MOEPOOL_CHECK(report.ok() && report->servable.ok() == served);
  MOEPOOL_CHECK(!ToString(*report, /*all_tensors=*/true).empty());
  close(fd);
}

}  // namespace
}  // namespace moepool

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moepool;
  const std::span<const uint8_t> file(data, size);
  const auto read = [file](uint64_t offset, uint64_t bytes, char* out) {
    MOEPOOL_CHECK(offset <= file.size() && bytes <= file.size() - offset);
    std::memcpy(out, file.data() + offset, bytes);
    return absl::OkStatus();
  };
  auto header = ReadGguf(size, read);
  if (!header.ok()) {
    MOEPOOL_CHECK(!header.status().message().empty());
    return 0;
  }
  auto model = CheckModel(*std::move(header), "fuzz", read);
  Report(file, model.ok());
  if (!model.ok()) return 0;
  const MemorySource source(file, *std::move(model));
  ReadTensors(source);
  ReadExperts(source);
  return 0;
}
