// See synthetic.h.
#include "common/model/synthetic.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <utility>

#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/model/checked_model.h"
#include "common/model/synthetic_plan.h"

namespace moepool {
namespace {

constexpr int64_t kChunkBytes = 4 << 20;

// Runs the file that `plan` stands for through the checks of every other file.
absl::StatusOr<CheckedModel> CheckPlan(const SynthPlan& plan, const SynthSpec& spec) {
  const std::string header = plan.header.Serialize();
  const auto read = [&](uint64_t offset, uint64_t bytes, char* out) {
    if (offset < header.size()) {  // the reader reads ahead: what lies behind the header is not looked at
      std::memset(out, 0, bytes);
      std::memcpy(out, header.data() + offset, std::min(bytes, header.size() - offset));
      return absl::OkStatus();
    }
    const std::vector<uint64_t>& offsets = plan.header.offsets();
    for (size_t i = 0; i < offsets.size(); ++i) {
      if (header.size() + offsets[i] == offset && bytes <= plan.tensors[i].info.bytes) {
        FillBytes(plan.tensors[i], spec.seed, 0, {reinterpret_cast<std::byte*>(out), bytes});
        return absl::OkStatus();
      }
    }
    return absl::InternalError(StrCat("no tensor begins at offset ", offset));
  };
  MOEPOOL_ASSIGN_OR_RETURN(GgufFile file, ReadGguf(header.size() + plan.header.data_bytes(), read));
  return CheckModel(std::move(file), spec.name, read);
}

class SyntheticSource final : public ModelSource {
 public:
  SyntheticSource(SynthPlan plan, CheckedModel model, uint64_t seed)
      : plan_(std::move(plan)), model_(std::move(model)), seed_(seed) {}

  const ModelConfig& Config() const override { return model_.config; }
  const TokenizerSpec& Tokenizer() const override { return model_.tokenizer; }
  const std::vector<TensorInfo>& Tensors() const override { return model_.tensors.tensors(); }
  const TensorInfo* Find(std::string_view name) const override { return model_.tensors.Find(name); }

  absl::StatusOr<TensorBytes> Range(std::string_view name, uint64_t offset, uint64_t bytes) const override {
    const TensorInfo* tensor = Find(name);
    if (tensor == nullptr) return absl::NotFoundError(StrCat("tensor ", Quoted(name), " is missing"));
    MOEPOOL_RETURN_IF_ERROR(CheckRange(*tensor, offset, bytes));
    auto memory = std::make_shared<std::vector<std::byte>>(bytes);
    Fill(*tensor, offset, *memory);
    return TensorBytes{*memory, memory};
  }

  absl::StatusOr<ModelDigest> Digest() const override {
    MutexLock lock(&mutex_);
    if (digest_.has_value()) return *digest_;
    const auto read = [this](const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) {
      Fill(tensor, offset, out);
      return absl::OkStatus();
    };
    MOEPOOL_ASSIGN_OR_RETURN(digest_, ComputeDigest(model_.config, model_.tensors, read));
    return *digest_;
  }

 private:
  void Fill(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const {
    FillBytes(plan_.tensors[model_.tensors.IndexOf(tensor)], seed_, offset, out);
  }

  const SynthPlan plan_;
  const CheckedModel model_;
  const uint64_t seed_;
  mutable Mutex mutex_;
  mutable std::optional<ModelDigest> digest_ GUARDED_BY(mutex_);
};

// A file that appears under its name when it is complete, and not at all otherwise.
class OutputFile {
 public:
  explicit OutputFile(std::string path) : path_(std::move(path)), partial_(StrCat(path_, ".partial")) {}
  ~OutputFile() {
    if (fd_ >= 0) {
      close(fd_);
      unlink(partial_.c_str());
    }
  }
  absl::Status Open() {
    fd_ = open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    return fd_ >= 0 ? absl::OkStatus() : Failed("cannot create", partial_);
  }
  absl::Status Write(const void* data, uint64_t bytes) {
    const char* next = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t n = write(fd_, next, bytes);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Failed("cannot write", partial_);
      next += n;
      bytes -= static_cast<uint64_t>(n);
    }
    return absl::OkStatus();
  }
  absl::Status Commit() {
    if (close(std::exchange(fd_, -1)) != 0 || rename(partial_.c_str(), path_.c_str()) != 0) {
      const absl::Status status = Failed("cannot complete", path_);
      unlink(partial_.c_str());
      return status;
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status Failed(std::string_view what, const std::string& path) {
    return absl::ErrnoToStatus(errno, StrCat(what, " '", path, "'"));
  }

  const std::string path_;
  const std::string partial_;
  int fd_ = -1;
};

absl::Status WriteTensor(const SynthTensor& tensor, uint64_t seed, std::vector<std::byte>* buffer,
                         OutputFile* out) {
  const int64_t block_bytes = Info(tensor.info.dtype).block_bytes;
  const int64_t blocks = static_cast<int64_t>(tensor.info.bytes) / block_bytes;
  const int64_t chunk = kChunkBytes / block_bytes;
  for (int64_t first = 0; first < blocks; first += chunk) {
    const int64_t count = std::min(chunk, blocks - first);
    FillBlocks(tensor, seed, first, count, buffer->data());
    MOEPOOL_RETURN_IF_ERROR(out->Write(buffer->data(), static_cast<uint64_t>(count * block_bytes)));
  }
  const std::string padding(GgufPadded(tensor.info.bytes) - tensor.info.bytes, '\0');
  return out->Write(padding.data(), padding.size());
}

}  // namespace

absl::Status WriteSyntheticGguf(const SynthSpec& spec, const std::string& path) {
  MOEPOOL_ASSIGN_OR_RETURN(const SynthPlan plan, PlanSynthetic(spec));
  MOEPOOL_RETURN_IF_ERROR(CheckPlan(plan, spec).status());
  OutputFile out(path);
  MOEPOOL_RETURN_IF_ERROR(out.Open());
  const std::string header = plan.header.Serialize();
  MOEPOOL_RETURN_IF_ERROR(out.Write(header.data(), header.size()));
  std::vector<std::byte> buffer(kChunkBytes);
  for (const SynthTensor& tensor : plan.tensors) {
    MOEPOOL_RETURN_IF_ERROR(WriteTensor(tensor, spec.seed, &buffer, &out));
  }
  return out.Commit();
}

absl::StatusOr<std::unique_ptr<ModelSource>> MakeSyntheticSource(const SynthSpec& spec) {
  MOEPOOL_ASSIGN_OR_RETURN(SynthPlan plan, PlanSynthetic(spec));
  MOEPOOL_ASSIGN_OR_RETURN(CheckedModel model, CheckPlan(plan, spec));
  return std::make_unique<SyntheticSource>(std::move(plan), std::move(model), spec.seed);
}

}  // namespace moepool
