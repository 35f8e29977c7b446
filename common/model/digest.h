// What router and workers compare to know that they serve the same model.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/tensor_table.h"

namespace moepool {

// Fills `out` from the tensor's bytes at `offset`. Called by several threads at once.
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

// The digest remembered for `file`, or else what `compute` says, which is then remembered: in
// ${XDG_CACHE_HOME:-~/.cache}/moepool/digests, a directory private to the user. Of several processes that ask
// at once for the same file one computes, under a lock that goes with its process, and the others wait for
// it. Where the directory cannot be used, each computes for itself.
absl::StatusOr<ModelDigest> RememberedDigest(const FileIdentity& file,
                                             absl::FunctionRef<absl::StatusOr<ModelDigest>()> compute);

}  // namespace moepool
