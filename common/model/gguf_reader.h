// The container: header, metadata and tensor table of a GGUF file, checked for form alone. Knows nothing of
// models.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/gguf_metadata.h"
#include "common/model/model_source.h"

namespace moepool {

inline constexpr uint32_t kGgufVersion = 3;  // written; 2 is read as well
inline constexpr uint32_t kGgufDefaultAlignment = 32;
inline constexpr uint64_t kGgufMaxHeaderBytes = uint64_t{256}
                                                << 20;  // ten times the largest known vocabulary
inline constexpr size_t kGgufMaxNameBytes = 64;         // of a tensor

struct GgufTensor {
  TensorInfo info;
  uint64_t offset = 0;  // in the file; [offset, offset + info.bytes) lies in it, and in no other tensor
};

struct GgufFile {
  uint32_t version = 0;
  uint32_t alignment = kGgufDefaultAlignment;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in the file's order; names are distinct
};

// Copies bytes [offset, offset + bytes) of the file, which lie within file_bytes.
using GgufReadAt = absl::FunctionRef<absl::Status(uint64_t offset, uint64_t bytes, char* out)>;

// Memory stays within a small multiple of the header's own bytes, whatever its counts claim.
//   DataLoss: malformed.   Unimplemented: version 1, big-endian, nested arrays, an element type not built in.
absl::StatusOr<GgufFile> ReadGguf(uint64_t file_bytes, GgufReadAt read);

}  // namespace moepool
