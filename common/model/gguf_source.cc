// See gguf_source.h.
#include "common/model/gguf_source.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/model/checked_model.h"
#include "common/model/gguf_file.h"

namespace moepool {
namespace {

// Whole pages of a file, mapped for reading until the last owner goes.
class Mapping {
 public:
  Mapping(void* address, size_t bytes) : address_(address), bytes_(bytes) {}
  ~Mapping() { munmap(address_, bytes_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

 private:
  void* address_;
  size_t bytes_;
};

class GgufSource final : public ModelSource {
 public:
  GgufSource(InputFile file, CheckedModel model) : file_(std::move(file)), model_(std::move(model)) {}

  const ModelConfig& Config() const override { return model_.config; }
  const TokenizerSpec& Tokenizer() const override { return model_.tokenizer; }
  const std::vector<TensorInfo>& Tensors() const override { return model_.tensors.tensors(); }
  const TensorInfo* Find(std::string_view name) const override { return model_.tensors.Find(name); }

  absl::StatusOr<TensorBytes> Range(std::string_view name, uint64_t offset, uint64_t bytes) const override {
    const TensorInfo* tensor = Find(name);
    if (tensor == nullptr) return absl::NotFoundError(StrCat("tensor ", Quoted(name), " is missing"));
    MOEPOOL_RETURN_IF_ERROR(CheckRange(*tensor, offset, bytes));
    if (bytes == 0) return TensorBytes{};
    MOEPOOL_RETURN_IF_ERROR(file_.CheckUnchanged());
    return Map(model_.offsets[model_.tensors.IndexOf(*tensor)] + offset, bytes);
  }

  absl::StatusOr<ModelDigest> Digest() const override {
    MutexLock lock(&mutex_);
    MOEPOOL_RETURN_IF_ERROR(file_.CheckUnchanged());
    if (digest_.has_value()) return *digest_;
    const auto read = [this](const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) {
      return file_.ReadAt(model_.offsets[model_.tensors.IndexOf(tensor)] + offset, out.size(),
                          reinterpret_cast<char*>(out.data()));
    };
    MOEPOOL_ASSIGN_OR_RETURN(const ModelDigest digest,
                             RememberedDigest(file_.identity(), [&]() -> absl::StatusOr<ModelDigest> {
                               MOEPOOL_ASSIGN_OR_RETURN(const ModelDigest computed,
                                                        ComputeDigest(model_.config, model_.tensors, read));
                               MOEPOOL_RETURN_IF_ERROR(file_.CheckUnchanged());
                               return computed;
                             }));
    digest_ = digest;
    return digest;
  }

 private:
  absl::StatusOr<TensorBytes> Map(uint64_t begin, uint64_t bytes) const {
    static const uint64_t page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    const uint64_t lead = begin % page_bytes;
    void* address =
        mmap(nullptr, lead + bytes, PROT_READ, MAP_PRIVATE, file_.fd(), static_cast<off_t>(begin - lead));
    if (address == MAP_FAILED) {
      return absl::ResourceExhaustedError(StrCat("'", file_.identity().path, "': cannot map ", bytes,
                                                 " bytes at offset ", begin, ": ", std::strerror(errno)));
    }
    TensorBytes range;
    range.owner = std::make_shared<Mapping>(address, lead + bytes);
    range.bytes = {static_cast<const std::byte*>(address) + lead, bytes};
    return range;
  }

  const InputFile file_;
  const CheckedModel model_;
  mutable Mutex mutex_;
  mutable std::optional<ModelDigest> digest_ GUARDED_BY(mutex_);
};

// "Mixtral-8x7B" of ".../Mixtral-8x7B.gguf".
std::string_view Stem(std::string_view path) {
  const std::string_view name = path.substr(path.rfind('/') + 1);
  return name.substr(0, name.rfind('.'));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenGguf(const std::string& path) {
  MOEPOOL_ASSIGN_OR_RETURN(InputFile file, InputFile::Open(path));
  const auto read = [&file](uint64_t offset, uint64_t bytes, char* out) {
    return file.ReadAt(offset, bytes, out);
  };
  const auto named = [&path](const absl::Status& status) {
    return absl::Status(status.code(), StrCat("'", path, "': ", ToStd(status.message())));
  };
  absl::StatusOr<GgufFile> header = ReadGguf(file.identity().bytes, read);
  if (!header.ok()) return named(header.status());
  absl::StatusOr<CheckedModel> model = CheckModel(*std::move(header), Stem(path), read);
  if (!model.ok()) return named(model.status());
  return std::make_unique<GgufSource>(std::move(file), *std::move(model));
}

}  // namespace moepool
