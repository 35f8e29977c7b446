// absl::Status over HTTP, in the shape that OpenAI's clients read: {"error": {"message", "type", "param",
// "code"}}.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "gateway/http/http_server.h"
#include "nlohmann/json.hpp"

namespace moepool {

// 200 with `body`; U+FFFD where a string of it is no UTF-8.
HttpResponse JsonResponse(const nlohmann::json& body);

int HttpStatusOf(const absl::Status& status);
// "param" is the field that the status is about, or null; "code" is the status code's name in lower case, but
// invalid_api_key where there is no such key.
nlohmann::json OpenAiError(const absl::Status& status);
// With Retry-After where coming back may help.
HttpResponse ErrorResponse(const absl::Status& status);
// The body for an HTTP status that no absl::Status stands behind (404, 405, 413, …).
std::string OpenAiErrorBody(int http_status, const std::string& message);

}  // namespace moepool
