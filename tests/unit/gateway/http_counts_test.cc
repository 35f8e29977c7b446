#include "gateway/http/http_counts.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

TEST(HttpCountsTest, PathsThatAreNotServedAreOne) {
  Metrics metrics;
  HttpCounts counts(&metrics, {"/infer", "/health"});
  HttpRequest request;
  for (const char* path : {"/infer", "/infer", "/made/up", "", "/another"}) {
    request.path = path;
    counts.Count(request, 200);
  }
  request.path = "/infer";
  counts.Count(request, 429);
  const std::string shown = metrics.Expose();
  EXPECT_THAT(shown, testing::HasSubstr("moepool_http_requests_total{code=\"200\",path=\"/infer\"} 2\n"));
  EXPECT_THAT(shown, testing::HasSubstr("moepool_http_requests_total{code=\"429\",path=\"/infer\"} 1\n"));
  EXPECT_THAT(shown, testing::HasSubstr("moepool_http_requests_total{code=\"200\",path=\"other\"} 3\n"));
  EXPECT_THAT(shown, testing::Not(testing::HasSubstr("made")));
}

TEST(HttpCountsTest, PathsThatEndWithANameAreOne) {
  Metrics metrics;
  HttpCounts counts(&metrics, {"/models", "/models/{model}"});
  HttpRequest request;
  for (const char* path : {"/models", "/models/a", "/models/b/c", "/models/", "/model"}) {
    request.path = path;
    counts.Count(request, 200);
  }
  const std::string shown = metrics.Expose();
  EXPECT_THAT(shown, testing::HasSubstr("moepool_http_requests_total{code=\"200\",path=\"/models\"} 1\n"));
  EXPECT_THAT(shown,
              testing::HasSubstr("moepool_http_requests_total{code=\"200\",path=\"/models/{model}\"} 2\n"));
  EXPECT_THAT(shown, testing::HasSubstr("moepool_http_requests_total{code=\"200\",path=\"other\"} 2\n"));
}

TEST(HttpCountsTest, RefusalsAreShownBeforeTheFirst) {
  Metrics metrics;
  HttpCounts counts(&metrics, {"/infer", "/health"});
  EXPECT_THAT(metrics.Expose(),
              testing::HasSubstr("moepool_http_requests_total{code=\"429\",path=\"/infer\"} 0\n"));
}

}  // namespace
}  // namespace moepool
