// What router and workers compare to know that they serve the same model.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/tensor_table.h"

namespace moepool {

// Fills `out` from the tensor's bytes at `offset`.
using TensorReadAt =
    absl::FunctionRef<absl::Status(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out)>;

// SHA-256 over a canonical form of `config` (its name left out: files may be renamed) and over name, type,
// shape and SHA-256 of every tensor in order of name.
absl::StatusOr<ModelDigest> ComputeDigest(const ModelConfig& config, const TensorTable& tensors,
                                          TensorReadAt read);

// A state of a file: any write to it changes one of these.
struct FileIdentity {
  std::string path;  // absolute, free of links
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t bytes = 0;
  int64_t modified_ns = 0;
  int64_t changed_ns = 0;  // of the inode: survives a forged time of modification
  bool operator==(const FileIdentity&) const = default;
};

// Digests remembered in ${XDG_CACHE_HOME:-~/.cache}/moepool/digests, a directory private to the user. Best
// effort: where it cannot be read or written, nothing is remembered.
std::optional<ModelDigest> LoadDigest(const FileIdentity& file);
void StoreDigest(const FileIdentity& file, const ModelDigest& digest);

}  // namespace moepool
