#include "gateway/gateway_flags.h"

#include <algorithm>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

constexpr double kMaxSeconds = 1e6;
constexpr double kMaxMilliseconds = 1e9;

absl::StatusOr<HostPort> ListenAddress(const GatewayFlags& flags, const char* flag, const std::string& text) {
  const bool allowed = flags.insecure || !flags.api_key_file.empty();
  MOEPOOL_ASSIGN_OR_RETURN(HostPort address, ParseListenAddress(flag, text, /*insecure=*/true));
  if (!allowed && !address.IsLoopback()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--", flag, ": ", address.ToString(),
        " is not a loopback address, and everyone who reaches it could call; --api-key-file asks "
        "callers for a key (`moepool key NAME` makes one), --insecure lets them in without"));
  }
  if (!address.IsLoopback()) {
    Log(LogLevel::kWarning, "what is sent to and from this address is not encrypted",
        {{"flag", flag}, {"address", address.ToString()}, {"keys", !flags.api_key_file.empty()}});
  }
  return address;
}

}  // namespace

void AddGatewayFlags(CLI::App* app, GatewayFlags* flags) {
  const auto count = [app](const char* name, auto* value, const char* help, auto least, auto most) {
    app->add_option(name, *value, help)->check(CLI::Range(least, most))->capture_default_str();
  };
  const auto seconds = [&count](const char* name, double* value, const char* help, double least = 0.001) {
    count(name, value, help, least, kMaxSeconds);
  };
  app->add_option("--http-address", flags->http_address, "Where to serve HTTP")->capture_default_str();
  app->add_option("--grpc-address", flags->grpc_address, "Where to serve gRPC")->capture_default_str();
  app->add_flag("--insecure", flags->insecure,
                "Allow addresses that are not loopback without API keys; nothing is encrypted either way");
  app->add_option("--api-key-file", flags->api_key_file,
                  "Lines NAME:SHA256 of the keys that may call; read again when it changes");
  app->add_option("--served-model-name", flags->served_model_names,
                  "Names that the model is served by, the first of them shown; none: the name in the file")
      ->delimiter(',');
  app->add_flag("--open-metrics", flags->open_metrics, "Show /metrics without a key");
  app->add_option("--cors-origin", flags->cors_origins,
                  "Origins whose pages may call from browsers, such as https://chat.example.org; * for all")
      ->delimiter(',');
  app->add_option(
         "--allowed-hosts", flags->allowed_hosts,
         "Names in the Host header that a loopback address answers to, besides localhost and IP addresses")
      ->delimiter(',');
  count("--max-requests", &flags->max_requests, "Requests in flight; more are told to come back", 1,
        1'000'000);
  count("--max-queue-requests", &flags->max_queue_requests,
        "Of these, requests that wait for their first token; 0: no limit", 0, 1'000'000);
  count("--max-queue-tokens", &flags->max_queue_tokens,
        "Tokens of prompts, and of answers at their longest, of all requests in flight; 0: no limit",
        int64_t{0}, int64_t{1} << 50);
  count("--max-connections", &flags->max_connections, "HTTP connections", 1, 1'000'000);
  count("--max-streams", &flags->max_streams, "Calls at once on one gRPC connection", 1, 1'000'000);
  count("--max-header-bytes", &flags->max_header_bytes, "Largest header of a request", uint32_t{1024},
        uint32_t{1 << 20});
  count("--max-body-bytes", &flags->max_body_bytes, "Largest body or gRPC message of a request",
        uint64_t{1024}, uint64_t{1 << 30});
  seconds("--header-timeout", &flags->header_timeout_s, "Seconds for a request's header to arrive");
  seconds("--body-timeout", &flags->body_timeout_s, "Seconds for a request's body to arrive");
  seconds("--idle-timeout", &flags->idle_timeout_s, "Seconds that an HTTP connection may be idle");
  seconds("--write-timeout", &flags->write_timeout_s,
          "Seconds that a client may take nothing of what is written to it");
  seconds("--request-timeout", &flags->request_timeout_s, "Seconds that a request may take");
  seconds("--keepalive-interval", &flags->keepalive_interval_s,
          "Seconds between comments on a silent stream");
  count("--slow-request-ms", &flags->slow_request_ms, "Log each request that takes this long; 0: none", 0.0,
        kMaxMilliseconds);
  seconds("--drain-timeout", &flags->drain_timeout_s, "Seconds for running requests after SIGTERM", 0.0);
}

absl::StatusOr<GatewayOptions> ToGatewayOptions(const GatewayFlags& flags) {
  GatewayOptions options;
  MOEPOOL_ASSIGN_OR_RETURN(options.http.address, ListenAddress(flags, "http-address", flags.http_address));
  MOEPOOL_ASSIGN_OR_RETURN(options.grpc_address, ListenAddress(flags, "grpc-address", flags.grpc_address));
  for (const std::string& origin : flags.cors_origins) {
    if (const absl::Status status = ValidateOrigin(origin); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--cors-origin: ", status.message()));
    }
  }
  if (!flags.api_key_file.empty()) {
    absl::StatusOr<std::unique_ptr<ApiKeys>> keys = ApiKeys::Load(flags.api_key_file);
    if (!keys.ok())
      return absl::InvalidArgumentError(absl::StrCat("--api-key-file: ", keys.status().message()));
    options.keys = *std::move(keys);
  }
  if (!flags.served_model_names.empty()) {
    if (std::ranges::find(flags.served_model_names, "") != flags.served_model_names.end()) {
      return absl::InvalidArgumentError("--served-model-name: a name is empty");
    }
    options.model_factory = [names = flags.served_model_names](ModelInfo info) {
      return LoadServedModel(std::move(info), names);
    };
  }
  options.open_metrics = flags.open_metrics;
  options.cors_origins = flags.cors_origins;
  options.allowed_hosts = flags.allowed_hosts;
  options.max_streams = flags.max_streams;
  options.http.max_connections = flags.max_connections;
  options.http.max_header_bytes = flags.max_header_bytes;
  options.http.max_body_bytes = flags.max_body_bytes;
  options.http.header_timeout = absl::Seconds(flags.header_timeout_s);
  options.http.body_timeout = absl::Seconds(flags.body_timeout_s);
  options.http.idle_timeout = absl::Seconds(flags.idle_timeout_s);
  options.http.write_timeout = absl::Seconds(flags.write_timeout_s);
  options.api.keepalive_interval = absl::Seconds(flags.keepalive_interval_s);
  options.inference.max_requests = flags.max_requests;
  options.inference.max_queue_requests = flags.max_queue_requests;
  options.inference.max_queue_tokens = flags.max_queue_tokens;
  if (flags.slow_request_ms > 0) options.inference.slow_request = absl::Milliseconds(flags.slow_request_ms);
  options.inference.request_timeout = absl::Seconds(flags.request_timeout_s);
  return options;
}

}  // namespace moepool
