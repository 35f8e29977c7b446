// The page at /, its files, and the pool that it shows: GET /pool.
#include <string>
#include <string_view>
#include <utility>

#include "common/base/status_macros.h"
#include "gateway/http/http_api.h"
#include "gateway/http/openai_error.h"
#include "gateway/http/page_files.h"

namespace moepool {
namespace {

std::string ContentType(std::string_view path) {
  if (path.ends_with(".css")) return "text/css; charset=utf-8";
  if (path.ends_with(".js")) return "text/javascript; charset=utf-8";
  if (path.ends_with(".svg")) return "image/svg+xml";
  return "text/html; charset=utf-8";
}

}  // namespace

const std::vector<HttpApi::Route>* HttpApi::WithPage(std::vector<Route>* table) {
  for (const PageFile& file : PageFiles()) table->push_back({file.path, "GET", &HttpApi::Page});
  return table;
}

void HttpApi::Page(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  for (const PageFile& file : PageFiles()) {
    if (file.path != request.path) continue;
    HttpResponse response;
    response.content_type = ContentType(file.path);
    if (request.Header("If-None-Match") == file.etag) {
      response.status = 304;
    } else {
      response.body = std::string(file.bytes);
    }
    // A new gateway has a new page: browsers are to ask each time.
    response.headers = {{"Cache-Control", "no-cache"},
                        {"ETag", std::string(file.etag)},
                        {"Content-Security-Policy",
                         "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
                        {"Referrer-Policy", "no-referrer"},
                        {"X-Content-Type-Options", "nosniff"}};
    return responder->Send(std::move(response));
  }
  MOEPOOL_CHECK(false);  // a route without a file
}

void HttpApi::Pool(HttpRequest, std::shared_ptr<HttpResponder> responder) {
  const absl::StatusOr<std::shared_ptr<const std::string>> text = pool_text_.Get();
  if (!text.ok()) return responder->Send(ErrorResponse(text.status()));
  HttpResponse response;
  response.body = **text;
  response.headers.emplace_back("Cache-Control", "no-store");
  responder->Send(std::move(response));
}

}  // namespace moepool
