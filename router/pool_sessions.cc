#include "router/pool_sessions.h"

#include <sys/random.h>

#include <utility>

#include "absl/strings/escaping.h"
#include "common/base/status_macros.h"

namespace moepool {

std::string PoolSessions::Open(WorkerId worker, std::set<Carrier> carriers) {
  char random[16];
  MOEPOOL_CHECK(getrandom(random, sizeof(random), 0) == sizeof(random));  // cannot fail for so few bytes
  const std::string session = absl::BytesToHexString(absl::string_view(random, sizeof(random)));
  MutexLock lock(&mutex_);
  sessions_[session] = {worker, std::move(carriers)};
  return session;
}

void PoolSessions::Close(const std::string& session) {
  MutexLock lock(&mutex_);
  sessions_.erase(session);
}

void PoolSessions::Forbid(const std::string& session, Carrier carrier) {
  MutexLock lock(&mutex_);
  if (const auto it = sessions_.find(session); it != sessions_.end()) it->second.carriers.erase(carrier);
}

absl::StatusOr<WorkerId> PoolSessions::Find(const std::string& session, Carrier carrier) {
  MutexLock lock(&mutex_);
  const auto it = sessions_.find(session);
  if (it == sessions_.end()) return absl::PermissionDeniedError("no worker has this session");
  if (!it->second.carriers.contains(carrier)) {
    return absl::PermissionDeniedError("the session does not expect this transport");
  }
  return it->second.worker;
}

}  // namespace moepool
