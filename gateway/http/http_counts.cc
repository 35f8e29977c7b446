#include "gateway/http/http_counts.h"

#include "absl/strings/str_cat.h"

namespace moepool {
namespace {

constexpr char kOther[] = "other";

}  // namespace

HttpCounts::HttpCounts(Metrics* metrics, const std::vector<std::string>& paths)
    : metrics_(metrics), paths_(paths.begin(), paths.end()) {}

void HttpCounts::Count(const HttpRequest& request, int status) {
  const std::string path = paths_.contains(request.path) ? request.path : kOther;
  MutexLock lock(&mutex_);
  prometheus::Counter*& counter = counters_[{path, status}];
  if (counter == nullptr) {
    counter = &metrics_->Counter(
        "http_requests_total",
        "Requests answered over HTTP, by path (other: none that is served) and status code.",
        {{"path", path}, {"code", absl::StrCat(status)}});
  }
  counter->Increment();
}

}  // namespace moepool
