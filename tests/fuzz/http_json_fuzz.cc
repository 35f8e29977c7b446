// What a client sends to the gateway: HTTP/1.1 bytes through the server's own parser settings, in pieces of a
// size that the first byte gives, and each body through the JSON readers. Request after request, as on a
// connection that is kept.
#include <string>
#include <string_view>

#include "boost/asio/buffer.hpp"
#include "boost/beast/http/error.hpp"
#include "common/base/status_macros.h"
#include "gateway/http/http_parse.h"
#include "gateway/infer_request.h"
#include "tests/fuzz/fuzz_input.h"

namespace moepool {
namespace {

// Feeds the parser until it has a header (eager false) or a body (true), or needs what is not there.
bool Feed(HttpParser* parser, bool eager, size_t piece, std::string_view* bytes) {
  parser->eager(eager);
  size_t window = piece;  // what has arrived of *bytes
  while (eager ? !parser->is_done() : !parser->is_header_done()) {
    const size_t arrived = std::min(window, bytes->size());
    boost::system::error_code error;
    const size_t used = parser->put(boost::asio::const_buffer(bytes->data(), arrived), error);
    MOEPOOL_CHECK(used <= arrived);
    bytes->remove_prefix(used);
    if (error && error != boost::beast::http::error::need_more) return false;
    if (used > 0) {
      window = std::max<size_t>(arrived - used, 1);
    } else if (arrived == bytes->size()) {
      return false;
    } else {
      window = arrived + piece;
    }
  }
  return true;
}

void ReadBody(const std::string& body) {
  const auto json = ParseJson(body);
  const auto infer = ParseInferRequest(body);
  const auto tokenize = ParseTokenizeRequest(body);
  if (!json.ok()) MOEPOOL_CHECK(!infer.ok() && !tokenize.ok());
  for (const absl::Status& status : {json.status(), infer.status(), tokenize.status()}) {
    MOEPOOL_CHECK(status.ok() || absl::IsInvalidArgument(status));
  }
  if (infer.ok()) MOEPOOL_CHECK(ValidateInferRequest(*infer).ok());
}

}  // namespace
}  // namespace moepool

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moepool;
  FuzzInput input(data, size);
  const size_t piece = 1 + input.Take<uint8_t>();
  std::string_view bytes = input.TakeRest();
  HttpServerOptions options;
  options.max_header_bytes = 4 << 10;
  options.max_body_bytes = 64 << 10;
  while (!bytes.empty()) {
    HttpParser parser;
    LimitParser(options, &parser);
    if (!Feed(&parser, false, piece, &bytes) || !CheckHeader(parser).ok()) break;
    if (!Feed(&parser, true, piece, &bytes)) break;
    const HttpRequest request = HeadOf(parser);
    const std::string& body = parser.get().body();
    MOEPOOL_CHECK(body.size() <= options.max_body_bytes);
    MOEPOOL_CHECK(request.path.find('?') == std::string::npos);
    ReadBody(body);
  }
  // The readers again without the framing, which is hard to get past.
  ReadBody(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
