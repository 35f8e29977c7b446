// Staging memory of the NCCL transport, kept for the next frame: to allocate it takes milliseconds where it
// is page-locked, and may wait for the whole device.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "common/transport/nccl_device.h"

namespace moepool {

// Thread-safe. Blocks may outlive it.
class NcclStaging {
 public:
  // Keeps up to `keep_bytes` that nobody uses.
  explicit NcclStaging(std::shared_ptr<NcclDevice> device, size_t keep_bytes = size_t{64} << 20);
  // At least `bytes`; free again with its last reference. ResourceExhausted.
  absl::StatusOr<std::shared_ptr<const NcclBuffer>> Take(size_t bytes, bool with_host = true);

 private:
  struct State;
  const std::shared_ptr<State> state_;
};

}  // namespace moepool
