#include "gateway/http/openapi.h"

#include <limits>
#include <set>

#include "gateway/openai/chat_request.h"
#include "gateway/openai/completions_request.h"
#include "gateway/openai/tokenize_request.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

using nlohmann::json;

const json& File() {
  static const auto* const file = new json(json::parse(OpenApiText()));
  return *file;
}

std::set<std::string> Keys(const json& object) {
  std::set<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.insert(key);
  return keys;
}

std::set<std::string> Set(const std::vector<std::string>& names) { return {names.begin(), names.end()}; }

// Every "$ref" below `value`.
void CollectReferences(const json& value, std::set<std::string>* found) {
  if (value.is_object() && value.contains("$ref")) found->insert(value["$ref"].get<std::string>());
  for (const json& member : value) {
    if (member.is_structured()) CollectReferences(member, found);
  }
}

TEST(OpenApiTest, HasTheRoutesAndNoOthers) {
  std::set<std::string> routes;
  for (const std::string& path : HttpApi::Paths()) {
    // The page is no part of the API.
    if (path != "/" && path.rfind("/page/", 0) != 0) routes.insert(path);
  }
  EXPECT_EQ(Keys(File()["paths"]), routes);
}

TEST(OpenApiTest, HasTheMethodsOfTheRoutes) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  for (const auto& [path, item] : File()["paths"].items()) {
    ASSERT_EQ(item.size(), 1u) << path;
    const std::string allowed = client.Call("OPTIONS", path).Header("Allow");
    EXPECT_THAT(allowed, testing::StartsWith(item.contains("get") ? "GET" : "POST")) << path;
  }
}

TEST(OpenApiTest, HasTheFieldsThatTheParsersKnow) {
  const struct {
    const char* schema;
    std::vector<std::string> names;
  } cases[] = {{"ChatRequest", ChatFieldNames()},
               {"CompletionsRequest", CompletionsFieldNames()},
               {"InferRequest", InferFieldNames()},
               {"Message", MessageFieldNames()},
               {"TokenizeRequest", TokenizeFieldNames()},
               {"DetokenizeRequest", DetokenizeFieldNames()},
               {"PromptToTokenize", PromptToTokenizeFieldNames()},
               {"TokensToDetokenize", TokensToDetokenizeFieldNames()}};
  for (const auto& c : cases) {
    EXPECT_EQ(Keys(File()["components"]["schemas"][c.schema]["properties"]), Set(c.names)) << c.schema;
  }
}

struct Body {
  const char* path;
  const char* schema;
  json smallest;
};

const std::vector<Body>& Bodies() {
  static const auto* const bodies = new std::vector<Body>{
      {"/v1/chat/completions", "ChatRequest", {{"messages", {{{"role", "user"}, {"content", "hi"}}}}}},
      {"/v1/completions", "CompletionsRequest", {{"prompt", "hi"}}},
      {"/infer", "InferRequest", {{"prompt", "hi"}}}};
  return *bodies;
}

// Values beside the ranges of a property, but for ends of the range of JSON's integers here.
std::vector<json> Outside(const json& property) {
  std::vector<json> values;
  const bool integer = property.value("type", "") == "integer";
  if (property.contains("minimum") && property["minimum"] != std::numeric_limits<int64_t>::min()) {
    values.push_back(integer ? json(property["minimum"].get<int64_t>() - 1)
                             : json(property["minimum"].get<double>() - 0.25));
  }
  if (property.contains("exclusiveMinimum")) values.push_back(property["exclusiveMinimum"]);
  if (property.contains("maximum") && property["maximum"] != std::numeric_limits<uint64_t>::max()) {
    values.push_back(integer ? json(property["maximum"].get<uint64_t>() + 1)
                             : json(property["maximum"].get<double>() + 0.25));
  }
  return values;
}

TEST(OpenApiTest, HasTheRangesOfNumbers) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  int checked = 0;
  for (const Body& body : Bodies()) {
    for (const auto& [name, property] : File()["components"]["schemas"][body.schema]["properties"].items()) {
      for (const json& value : Outside(property)) {
        json request = body.smallest;
        request[name] = value;
        const auto response = client.Call("POST", body.path, request.dump());
        ASSERT_EQ(response.status, 400) << body.schema << " " << name << " " << value;
        EXPECT_EQ(response.Json()["error"]["param"], name) << response.body;
        ++checked;
      }
      for (const char* bound : {"minimum", "maximum"}) {
        if (!property.contains(bound)) continue;
        json request = body.smallest;
        request[name] = property[bound];
        const auto response = client.Call("POST", body.path, request.dump());
        EXPECT_THAT(response.body, testing::Not(testing::HasSubstr(", not in "))) << name << " " << bound;
      }
    }
  }
  EXPECT_GT(checked, 50);
}

TEST(OpenApiTest, HasTheFieldsThatAreNeeded) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  for (const Body& body : Bodies()) {
    const json needed = File()["components"]["schemas"][body.schema].value("required", json::array());
    for (const json& name : needed) {
      json request = body.smallest;
      request.erase(name.get<std::string>());
      const auto response = client.Call("POST", body.path, request.dump());
      EXPECT_EQ(response.status, 400);
      EXPECT_EQ(response.Json()["error"]["param"], name);
    }
  }
}

TEST(OpenApiTest, RefersToWhatIsThere) {
  std::set<std::string> found;
  CollectReferences(File(), &found);
  EXPECT_FALSE(found.empty());
  for (const std::string& reference : found) {
    EXPECT_TRUE(File().contains(json::json_pointer(reference.substr(1)))) << reference;
  }
}

TEST(OpenApiTest, IsServed) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  const auto response = client.Call("GET", "/openapi.json");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.Header("Content-Type"), "application/json");
  EXPECT_EQ(response.body, std::string(OpenApiText()));
}

}  // namespace
}  // namespace moepool
