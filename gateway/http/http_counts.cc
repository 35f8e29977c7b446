#include "gateway/http/http_counts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "gateway/http/path_pattern.h"

namespace moepool {
namespace {

constexpr char kOther[] = "other";
constexpr int kTooManyRequests = 429;

}  // namespace

HttpCounts::HttpCounts(Metrics* metrics, const std::vector<std::string>& paths)
    : metrics_(metrics), paths_(paths) {
  // An alert has the rate of these, and a rate does not see the increments with which a counter appears:
  // without this, the first burst of refusals would go by unseen.
  MutexLock lock(&mutex_);
  for (const std::string& path : paths) CounterOf(path, kTooManyRequests);
}

void HttpCounts::Count(const HttpRequest& request, int status) {
  const auto path = std::find_if(paths_.begin(), paths_.end(), [&](const std::string& pattern) {
    return MatchesPath(pattern, request.path);
  });
  MutexLock lock(&mutex_);
  CounterOf(path == paths_.end() ? kOther : *path, status).Increment();
}

prometheus::Counter& HttpCounts::CounterOf(const std::string& path, int status) {
  prometheus::Counter*& counter = counters_[{path, status}];
  if (counter == nullptr) {
    counter = &metrics_->Counter(
        "http_requests_total",
        "Requests answered over HTTP, by path (other: none that is served) and status code.",
        {{"path", path}, {"code", absl::StrCat(status)}});
  }
  return *counter;
}

}  // namespace moepool
