#include "gateway/http/http_gate.h"

#include <arpa/inet.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gateway/http/openai_error.h"

namespace moepool {
namespace {

constexpr char kMethods[] = "GET, HEAD, POST";
constexpr char kPreflightSeconds[] = "600";
// What a page may read of an answer besides its body.
constexpr char kExposedHeaders[] = "X-Request-Id, Retry-After, WWW-Authenticate";
constexpr size_t kMaxRequestedHeadersBytes = 2048;

// The name in a Host header, its port and brackets off.
std::string NameOf(absl::string_view host) {
  if (absl::StartsWith(host, "[")) return std::string(host.substr(1, host.find(']') - 1));
  return absl::AsciiStrToLower(host.substr(0, host.rfind(':')));
}

bool IsIpAddress(const std::string& name) {
  in6_addr address;
  return inet_pton(AF_INET, name.c_str(), &address) == 1 || inet_pton(AF_INET6, name.c_str(), &address) == 1;
}

// Names of headers, commas and spaces between them.
bool IsHeaderList(const std::string& text) {
  return text.size() <= kMaxRequestedHeadersBytes && std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == ',' ||
                  c == ' ';
         });
}

}  // namespace

absl::Status ValidateOrigin(std::string_view origin) {
  const absl::string_view text(origin.data(), origin.size());
  if (text == "*") return absl::OkStatus();
  for (const absl::string_view scheme : {"http://", "https://"}) {
    if (!absl::StartsWith(text, scheme)) continue;
    absl::string_view host = text.substr(scheme.size());
    const size_t colon = host.rfind(':');
    int port = 0;
    if (colon != absl::string_view::npos && !absl::EndsWith(host, "]")) {
      if (!absl::SimpleAtoi(host.substr(colon + 1), &port) || port < 1 || port > 65535) break;
      host = host.substr(0, colon);
    }
    const bool sound = !host.empty() && std::all_of(host.begin(), host.end(), [](char c) {
      return absl::ascii_islower(static_cast<unsigned char>(c)) ||
             absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '[' ||
             c == ']' || c == ':';
    });
    if (sound) return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "'", text, "' is not an origin as browsers send it, such as https://chat.example.org, nor *"));
}

bool HttpGate::AllowsOrigin(const std::string& origin) const {
  return !origin.empty() && std::any_of(options_.cors_origins.begin(), options_.cors_origins.end(),
                                        [&](const std::string& one) { return one == "*" || one == origin; });
}

bool HttpGate::AllowsHost(const std::string& host) const {
  const std::string name = NameOf(host);
  if (name == "localhost" || absl::EndsWith(name, ".localhost") || IsIpAddress(name)) return true;
  return std::any_of(options_.allowed_hosts.begin(), options_.allowed_hosts.end(),
                     [&](const std::string& one) { return absl::EqualsIgnoreCase(one, name); });
}

bool HttpGate::IsOpen(const HttpRequest& request) const {
  if (request.method != "GET" && request.method != "HEAD") return false;
  for (const char* path : {"/", "/health", "/ready", "/openapi.json"}) {
    if (request.path == path) return true;
  }
  return absl::StartsWith(request.path, "/page/") || (options_.open_metrics && request.path == "/metrics");
}

HttpHeaders HttpGate::AnswerHeaders(const HttpRequest& request) const {
  if (options_.cors_origins.empty()) return {};
  const bool all = std::find(options_.cors_origins.begin(), options_.cors_origins.end(), "*") !=
                   options_.cors_origins.end();
  HttpHeaders headers;
  // A cache must not give one origin the answer made for another.
  if (!all) headers.emplace_back("Vary", "Origin");
  const std::string origin = request.Header("Origin");
  if (!AllowsOrigin(origin)) return headers;
  headers.emplace_back("Access-Control-Allow-Origin", all ? "*" : origin);
  headers.emplace_back("Access-Control-Expose-Headers", kExposedHeaders);
  return headers;
}

std::optional<HttpResponse> HttpGate::Check(HttpRequest* request) const {
  if (const std::string host = request->Header("Host");
      options_.check_host && !host.empty() && !AllowsHost(host)) {
    HttpResponse response;
    response.status = 421;
    response.body = OpenAiErrorBody(421, absl::StrCat("this server is not '", host.substr(0, 200),
                                                      "'; --allowed-hosts names what it is called"));
    return response;
  }
  // A browser asks without a key whether it may send one.
  if (request->method == "OPTIONS" && AllowsOrigin(request->Header("Origin")) &&
      !request->Header("Access-Control-Request-Method").empty()) {
    HttpResponse response;
    response.status = 204;
    response.content_type.clear();
    response.headers.emplace_back("Access-Control-Allow-Methods", kMethods);
    if (const std::string wanted = request->Header("Access-Control-Request-Headers");
        !wanted.empty() && IsHeaderList(wanted)) {
      response.headers.emplace_back("Access-Control-Allow-Headers", wanted);
    }
    response.headers.emplace_back("Access-Control-Max-Age", kPreflightSeconds);
    return response;
  }
  if (options_.keys == nullptr || IsOpen(*request)) return std::nullopt;
  const std::string authorization = request->Header("Authorization");
  absl::StatusOr<std::string> name = options_.keys->Check(authorization);
  if (name.ok()) {
    request->key_name = *std::move(name);
    return std::nullopt;
  }
  HttpResponse response = ErrorResponse(name.status());
  // As RFC 6750 has it: an error is named where a key came.
  response.headers.emplace_back("WWW-Authenticate",
                                authorization.empty() ? "Bearer realm=\"moepool\""
                                                      : "Bearer realm=\"moepool\", error=\"invalid_token\"");
  return response;
}

}  // namespace moepool
