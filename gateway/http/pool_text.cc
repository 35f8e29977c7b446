#include "gateway/http/pool_text.h"

#include <utility>

#include "common/base/status_macros.h"
#include "common/trunk/pool_json.h"

namespace moepool {

absl::StatusOr<std::shared_ptr<const std::string>> PoolText::Get() {
  MOEPOOL_ASSIGN_OR_RETURN(const std::shared_ptr<const PoolSight> sight, watcher_->Pool());
  MutexLock lock(&mutex_);
  if (sight_ != sight) {
    nlohmann::ordered_json json = PoolJson(sight->pool);
    json["unix_ms"] = absl::ToUnixMillis(sight->time);
    // A worker says its name and backend itself.
    text_ = std::make_shared<const std::string>(
        json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    sight_ = sight;
  }
  return text_;
}

}  // namespace moepool
