// Brings an ExpertStore to what the router assigned, in threads of its own, so that a worker computes and
// talks while it loads.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "common/base/mutex.h"
#include "common/transport/pool_protocol.h"
#include "expert_worker/expert_store.h"

namespace moepool {

// Thread-safe.
class AssignmentLoader {
 public:
  // Told once for each epoch that was not superseded, by the loader's thread: everything listed is held, or
  // why not.
  using Done = std::function<void(uint64_t epoch, const absl::Status& status)>;

  // `threads` to load with, beside those that compute; 0: one a core.
  AssignmentLoader(ExpertStore* store, int threads, Done done);
  // Abandons what is being loaded or, where it is to be mapped, written; after at most one expert a thread,
  // or 8 MiB of writing.
  ~AssignmentLoader();
  AssignmentLoader(const AssignmentLoader&) = delete;
  AssignmentLoader& operator=(const AssignmentLoader&) = delete;

  // Supersedes an earlier assignment that is still being loaded. What is not listed is kept.
  void Assign(uint64_t epoch, std::vector<ExpertRef> experts);
  // Drops what this epoch's assignment did not list. No-op unless that assignment is the latest.
  void Release(uint64_t epoch);
  // Forgets the latest assignment: Done is not running when this returns, and will not be told of it. What is
  // held is kept. Not from inside Done.
  void Cancel();

 private:
  void Loop();
  bool Superseded(uint64_t generation) const;

  ExpertStore* const store_;
  const int threads_;
  const Done done_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool stopping_ GUARDED_BY(mutex_) = false;
  bool telling_ GUARDED_BY(mutex_) = false;     // Done is running
  uint64_t generation_ GUARDED_BY(mutex_) = 0;  // counts assignments; epochs start anew with another router
  uint64_t finished_ GUARDED_BY(mutex_) = 0;    // generation last worked on
  std::optional<uint64_t> epoch_
      GUARDED_BY(mutex_);  // of the latest assignment; none at first and after Cancel
  std::vector<ExpertRef> experts_ GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace moepool
