// Sessions: what ties a worker's exchange, which comes on a connection of its own, to its membership.
#pragma once

#include <set>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/base/strong_id.h"

namespace moepool {

enum class Carrier { kSharedMemory, kNccl, kGrpc };

// Thread-safe. Taken after Membership's lock where both are.
class PoolSessions {
 public:
  // 128 random bits, hexadecimal: who knows them is the worker that was told.
  std::string Open(WorkerId worker, std::set<Carrier> carriers);
  void Close(const std::string& session);
  // It could not be had on the worker's side.
  void Forbid(const std::string& session, Carrier carrier);
  // PermissionDenied where the session is unknown or does not expect this carrier.
  absl::StatusOr<WorkerId> Find(const std::string& session, Carrier carrier);

 private:
  struct Entry {
    WorkerId worker;
    std::set<Carrier> carriers;
  };
  Mutex mutex_;
  absl::flat_hash_map<std::string, Entry> sessions_ GUARDED_BY(mutex_);
};

}  // namespace moepool
