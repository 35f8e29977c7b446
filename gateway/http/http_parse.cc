#include "gateway/http/http_parse.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace moepool {
namespace {

namespace http = boost::beast::http;

constexpr size_t kExpectedHeaders = 16;

}  // namespace

void LimitParser(const HttpServerOptions& options, HttpParser* parser) {
  parser->header_limit(options.max_header_bytes);
  parser->body_limit(options.max_body_bytes);
}

absl::Status CheckHeader(const HttpParser& parser) {
  const auto& request = parser.get();
  const bool http_1_0 = request.version() < 11;
  const auto encoding = request[http::field::transfer_encoding];
  if (!encoding.empty() && (http_1_0 || !boost::beast::iequals(encoding, "chunked"))) {
    return absl::InvalidArgumentError("Transfer-Encoding is not chunked alone");
  }
  if (!http_1_0 && request.count(http::field::host) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("Host is given ", request.count(http::field::host), " times, not once"));
  }
  return absl::OkStatus();
}

std::string HttpRequest::Header(std::string_view name) const {
  for (const auto& [given, value] : headers) {
    if (boost::beast::iequals(given, {name.data(), name.size()})) return value;
  }
  return "";
}

HttpRequest HeadOf(const HttpParser& parser) {
  const auto& message = parser.get();
  HttpRequest request;
  request.method = ToString(message.method_string());
  const std::string target = ToString(message.target());
  const size_t question = target.find('?');
  request.path = target.substr(0, question);
  if (question != std::string::npos) request.query = target.substr(question + 1);
  request.headers.reserve(kExpectedHeaders);
  for (const auto& field : message) {
    request.headers.emplace_back(ToString(field.name_string()), ToString(field.value()));
  }
  request.content_type = ToString(message[http::field::content_type]);
  return request;
}

}  // namespace moepool
