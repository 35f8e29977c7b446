// One HTTP request from bytes, whatever they come from: the parser's limits, the framing that is refused, and
// what a handler gets.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "boost/beast/core/string.hpp"
#include "boost/beast/http/parser.hpp"
#include "boost/beast/http/string_body.hpp"
#include "gateway/http/http_server.h"

namespace moepool {

using HttpParser = boost::beast::http::request_parser<boost::beast::http::string_body>;

inline std::string ToString(boost::beast::string_view s) { return std::string(s.data(), s.size()); }

// Before the first byte.
void LimitParser(const HttpServerOptions& options, HttpParser* parser);
// After the header. InvalidArgument where the end of the body would be a guess, which a proxy before us may
// have made otherwise, or Host is not given once.
absl::Status CheckHeader(const HttpParser& parser);
// After the header: all but the body.
HttpRequest HeadOf(const HttpParser& parser);

}  // namespace moepool
