// Each operation's status codes in the OpenAPI file, beside those that a gateway answers when all goes wrong
// in turn.
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <set>

#include "gateway/http/http_gate.h"
#include "gateway/http/openapi.h"
#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

using nlohmann::json;

struct Operation {
  std::string method;
  std::string path;  // as the file has it
  std::string Line(const std::string& host = "test") const {
    return method + " " + Target() + " HTTP/1.1\r\nHost: " + host + "\r\n";
  }
  std::string Target(const std::string& model = "test-model") const {
    const size_t brace = path.find('{');
    return brace == std::string::npos ? path : path.substr(0, brace) + model;
  }
  bool IsPost() const { return method == "POST"; }
};

// The smallest body that is good.
std::string BodyOf(const Operation& operation) {
  static const auto* const bodies = new std::map<std::string, json>{
      {"/v1/chat/completions", {{"messages", {{{"role", "user"}, {"content", "hi"}}}}}},
      {"/v1/completions", {{"prompt", "hi"}}},
      {"/infer", {{"prompt", "hi"}}},
      {"/tokenize", {{"text", "hi"}}},
      {"/detokenize", {{"ids", {1}}}}};
  const auto body = bodies->find(operation.path);
  return operation.IsPost() && body != bodies->end() ? body->second.dump() : "";
}

// What a router may say of a call; the other codes are about keys and names, of which it knows nothing.
std::vector<absl::Status> RouterStatuses() {
  std::vector<absl::Status> statuses;
  for (const absl::StatusCode code :
       {absl::StatusCode::kCancelled, absl::StatusCode::kUnknown, absl::StatusCode::kInvalidArgument,
        absl::StatusCode::kDeadlineExceeded, absl::StatusCode::kResourceExhausted,
        absl::StatusCode::kFailedPrecondition, absl::StatusCode::kOutOfRange,
        absl::StatusCode::kUnimplemented, absl::StatusCode::kInternal, absl::StatusCode::kUnavailable,
        absl::StatusCode::kDataLoss}) {
    statuses.emplace_back(code, absl::StatusCodeToString(code));
  }
  return statuses;
}

class OpenApiCodesTest : public testing::Test {
 protected:
  OpenApiCodesTest() : file_(json::parse(OpenApiText())) {
    for (const auto& [path, item] : file_["paths"].items()) {
      for (const auto& [method, operation] : item.items()) {
        operations_.push_back({method == "get" ? "GET" : "POST", path});
      }
    }
  }

  // Sends the same in each operation's name to a gateway of its own, and notes the answer's code.
  void Try(const HttpGatewayOptions& options, const std::function<std::string(const Operation&)>& request) {
    HttpGateway gateway(options);
    gateway.Answer({"x"});
    for (const Operation& operation : operations_) {
      const std::string bytes = request(operation);
      if (!bytes.empty()) Note(operation, gateway, bytes);
    }
  }
  void Note(const Operation& operation, const HttpGateway& gateway, const std::string& bytes) {
    HttpClient client(gateway.port());
    client.SendRaw(bytes);
    const auto response = client.Read();
    ASSERT_NE(response.status, 0) << operation.path;
    if (response.status != 200) {
      EXPECT_TRUE(response.Json().contains("error")) << response.body;
    }
    seen_[operation.path].insert(std::to_string(response.status));
  }
  static std::string Whole(const Operation& operation, const std::string& headers = "") {
    const std::string body = BodyOf(operation);
    return operation.Line() + headers +
           "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
           body;
  }

  const json file_;
  std::vector<Operation> operations_;
  std::map<std::string, std::set<std::string>> seen_;  // by path
};

TEST_F(OpenApiCodesTest, AreThoseThatAreAnswered) {
  // Answers of the server itself, and good ones.
  const auto whole = [](const Operation& o) { return Whole(o); };
  Try({}, whole);
  Try({}, [](const Operation& o) { return Whole(o, "Host: again\r\n"); });
  Try({}, [](const Operation& o) { return o.Line() + "X: " + std::string(32 << 10, 'x') + "\r\n\r\n"; });
  Try({}, [](const Operation& o) { return o.Line() + "Content-Length: 99999999\r\n\r\n"; });
  Try({}, [](const Operation& o) { return Whole({o.IsPost() ? "PUT" : "POST", o.path}); });
  HttpGatewayOptions slow;
  slow.http.header_timeout = absl::Milliseconds(10);
  Try(slow, [](const Operation& o) { return o.Line(); });
  HttpGatewayOptions none;
  none.http.max_connections = 0;
  HttpGateway full(none);
  for (const Operation& operation : operations_) Note(operation, full, "");  // it may not wait for more

  // Of the gate.
  const std::string path = testing::TempDir() + "openapi_keys." + std::to_string(getpid());
  std::ofstream(path) << MakeApiKey("alice")->line << "\n";
  chmod(path.c_str(), 0600);
  const auto keys = ApiKeys::Load(path);
  ASSERT_TRUE(keys.ok()) << keys.status();
  unlink(path.c_str());
  const HttpGate gate({.keys = keys->get(), .check_host = true, .allowed_hosts = {"test"}});
  HttpGatewayOptions locked;
  locked.http.gate = [&gate](HttpRequest* request) { return gate.Check(request); };
  Try(locked, whole);
  Try(locked, [](const Operation& o) { return o.Line("evil.example") + "\r\n"; });

  // Of the routes.
  Try({}, [](const Operation& o) {
    return o.IsPost() ? o.Line() + "Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n" : "";
  });
  Try({}, [](const Operation& o) -> std::string {
    if (!o.IsPost()) return "GET " + o.Target("another") + " HTTP/1.1\r\nHost: test\r\n\r\n";
    json body = json::parse(BodyOf(o));
    if (o.path.substr(0, 4) != "/v1/") return "";
    body["model"] = "another";
    const std::string text = body.dump();
    return o.Line() + "Content-Type: application/json\r\nContent-Length: " + std::to_string(text.size()) +
           "\r\n\r\n" + text;
  });

  HttpGatewayOptions one;
  one.inference.max_requests = 1;
  HttpGateway busy(one);
  HttpClient first(busy.port());
  first.Send("POST", "/infer", R"({"prompt": "hi"})");
  busy.trunk.WaitCall(0);
  for (const Operation& operation : operations_) Note(operation, busy, Whole(operation));

  // Of the router, in a call's stead and when it is asked for the pool.
  for (const absl::Status& status : RouterStatuses()) {
    HttpGateway gateway;
    gateway.trunk.SetResponder([status](const SequenceRequest&) {
      SequenceUpdate update;
      update.finished = true;
      update.status = status;
      return std::vector<SequenceUpdate>{update};
    });
    for (const Operation& operation : operations_) {
      if (operation.IsPost()) Note(operation, gateway, Whole(operation));
    }
    gateway.trunk.SetStatus(status);
    gateway.watcher.Refresh();
    gateway.ready.Wait(false);
    for (const Operation& operation : operations_) {
      if (!operation.IsPost()) Note(operation, gateway, Whole(operation));
    }
  }

  for (const auto& [path, item] : file_["paths"].items()) {
    for (const auto& [method, operation] : item.items()) {
      std::set<std::string> codes;
      for (const auto& [code, response] : operation["responses"].items()) codes.insert(code);
      EXPECT_EQ(codes, seen_[path]) << path;
    }
  }
}

}  // namespace
}  // namespace moepool
