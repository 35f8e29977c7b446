#include "gateway/http/openai_error.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "gateway/infer_request.h"
#include "gateway/retry_after.h"

namespace moepool {
namespace {

using nlohmann::json;

const char* TypeOf(int http_status) {
  if (http_status == 429) return "rate_limit_error";
  if (http_status >= 500) return "server_error";
  return "invalid_request_error";
}

// As OpenAI has it, or the status code's name in lower case.
std::string CodeOf(const absl::Status& status) {
  if (status.code() == absl::StatusCode::kUnauthenticated) return "invalid_api_key";
  if (status.code() == absl::StatusCode::kNotFound) return "model_not_found";
  return absl::AsciiStrToLower(absl::StatusCodeToString(status.code()));
}

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

}  // namespace

HttpResponse JsonResponse(const json& body) {
  HttpResponse response;
  response.body = Dump(body);
  return response;
}

int HttpStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

json OpenAiError(const absl::Status& status) {
  const std::string field = FieldOf(status);
  return {{"error",
           {{"message", std::string(status.message())},
            {"type", TypeOf(HttpStatusOf(status))},
            {"param", field.empty() ? json() : json(field)},
            {"code", CodeOf(status)}}}};
}

HttpResponse ErrorResponse(const absl::Status& status) {
  HttpResponse response;
  response.status = HttpStatusOf(status);
  response.body = Dump(OpenAiError(status));
  if (const int seconds = RetryAfterSeconds(status); seconds > 0) {
    response.headers.emplace_back("Retry-After", absl::StrCat(seconds));
  }
  return response;
}

std::string OpenAiErrorBody(int http_status, const std::string& message) {
  return Dump(
      {{"error",
        {{"message", message}, {"type", TypeOf(http_status)}, {"param", nullptr}, {"code", nullptr}}}});
}

}  // namespace moepool
