// Counts the answers to requests over HTTP, those included that no handler saw: refused at the gate,
// malformed, too large, too slow.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/base/mutex.h"
#include "common/metrics/metrics.h"
#include "gateway/http/http_server.h"

namespace moepool {

// moepool_http_requests_total{path, code}. A path counts as the first of `paths` that it matches
// (path_pattern.h), or as "other", so that clients cannot make up labels. Those of code 429 are there from
// the start. Thread-safe.
class HttpCounts {
 public:
  HttpCounts(Metrics* metrics, const std::vector<std::string>& paths);
  void Count(const HttpRequest& request, int status);

 private:
  prometheus::Counter& CounterOf(const std::string& path, int status) REQUIRES(mutex_);

  Metrics* const metrics_;
  const std::vector<std::string> paths_;
  Mutex mutex_;
  absl::flat_hash_map<std::pair<std::string, int>, prometheus::Counter*> counters_ GUARDED_BY(mutex_);
};

}  // namespace moepool
