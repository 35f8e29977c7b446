// A model in a GGUF file (version 2 or 3, little-endian). The file is taken as hostile: nothing in it is used
// before it has been checked against the file's own size and the family's shapes.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/model/model_source.h"

namespace moepool {

// Reads and checks the header; maps no tensor. Range() maps the pages of its range alone, read-only.
//   NotFound / PermissionDenied / FailedPrecondition: the path, which is named, cannot be read as a file.
//   DataLoss: not a well-formed GGUF.   Unimplemented: a version, family, tensor type or option not built in.
//   InvalidArgument: well formed, but not a model (missing or mis-shaped tensors, hyperparameters out of
//   range).
// Digest() reads with pread, so that no expert tensor is mapped by it, and remembers its answer in
// ${XDG_CACHE_HOME:-~/.cache}/moepool/digests under the file's path, device, inode, size and time of change.
//
// The file must not be written to while it is open: a Range() or Digest() after that is DataLoss, but memory
// that was mapped before shows what was written, and raises SIGBUS where the file has become shorter, as with
// every mapped file.
absl::StatusOr<std::unique_ptr<ModelSource>> OpenGguf(const std::string& path);

}  // namespace moepool
