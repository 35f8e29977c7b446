#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr char kPath[] = "/v1/chat/completions";

json Chat(json more = json::object()) {
  json body = {{"messages", {{{"role", "user"}, {"content", "hi"}}}}};
  body.update(more);
  return body;
}

SequenceUpdate WithLogprobs(std::string_view text) {
  SequenceUpdate update = IdsUpdate(text);
  for (const int32_t id : update.ids) update.logprobs.push_back({-0.5f, {{id, -0.5f}, {'z', -2.f}}});
  return update;
}

TEST(ChatCompletionsTest, Answer) {
  HttpGateway gateway;
  gateway.Answer({"he", "llo"});
  HttpClient client(gateway.port());
  const auto response = client.Call("POST", kPath, Chat({{"model", "test-model"}, {"user", "u"}}).dump());
  ASSERT_EQ(response.status, 200) << response.body;
  json body = response.Json();
  EXPECT_THAT(body["id"].get<std::string>(), StartsWith("chatcmpl-"));
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["model"], "test-model");
  EXPECT_GT(body["created"].get<int64_t>(), 0);
  ASSERT_EQ(body["choices"].size(), 1u);
  json& choice = body["choices"][0];
  EXPECT_EQ(choice["index"], 0);
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["message"]["content"], "hello");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_TRUE(choice["logprobs"].is_null());
  EXPECT_EQ(body["usage"], json({{"prompt_tokens", 19},
                                 {"completion_tokens", 5},
                                 {"total_tokens", 24},
                                 {"prompt_tokens_details", {{"cached_tokens", 3}}},
                                 {"completion_tokens_details", {{"reasoning_tokens", 0}}}}));
  EXPECT_EQ(body["timings"]["queue_ms"], 2.5);
  // As many tokens as there is room for, at OpenAI's temperature.
  const SequenceRequest& request = gateway.trunk.WaitCall(0)->request();
  EXPECT_EQ(request.max_tokens, 128 - 19);
  EXPECT_EQ(request.sampling.temperature, 1);
}

TEST(ChatCompletionsTest, FieldsReachTheRouter) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  const json body = Chat({{"max_completion_tokens", 7},
                          {"max_tokens", 9},
                          {"temperature", 0.5},
                          {"top_k", 4},
                          {"seed", 11},
                          {"logit_bias", {{"65", 2}}},
                          {"presence_penalty", 1},
                          {"store", false},
                          {"metadata", {{"a", "b"}}},
                          {"something_new", 1}});
  ASSERT_EQ(client.Call("POST", kPath, body.dump()).status, 200);
  const SequenceRequest& request = gateway.trunk.WaitCall(0)->request();
  EXPECT_EQ(request.max_tokens, 7);
  EXPECT_EQ(request.sampling.temperature, 0.5);
  EXPECT_EQ(request.sampling.top_k, 4);
  EXPECT_EQ(request.sampling.seed, 11u);
  EXPECT_EQ(request.sampling.presence_penalty, 1);
  ASSERT_EQ(request.sampling.logit_bias.size(), 1u);
  EXPECT_EQ(request.sampling.logit_bias[0].id, 65);
}

TEST(ChatCompletionsTest, Stream) {
  HttpGateway gateway;
  gateway.Answer({"he", "llo"}, FinishReason::kLength);
  HttpClient client(gateway.port());
  const json body = Chat({{"stream", true}, {"stream_options", {{"include_usage", true}}}});
  const auto response = client.Call("POST", kPath, body.dump());
  EXPECT_EQ(response.Header("Content-Type"), "text/event-stream");
  const std::vector<std::string> lines = DataLines(response.body);
  ASSERT_EQ(lines.size(), 6u) << response.body;
  std::vector<json> chunks;
  for (size_t i = 0; i < 5; ++i) chunks.push_back(json::parse(lines[i]));
  for (const json& chunk : chunks) {
    EXPECT_EQ(chunk["id"], chunks[0]["id"]);
    EXPECT_EQ(chunk["created"], chunks[0]["created"]);
    EXPECT_EQ(chunk["object"], "chat.completion.chunk");
    EXPECT_TRUE(chunk.contains("usage"));
  }
  EXPECT_EQ(chunks[0]["choices"][0]["delta"], json({{"role", "assistant"}, {"content", ""}}));
  EXPECT_EQ(chunks[1]["choices"][0]["delta"], json({{"content", "he"}}));
  EXPECT_EQ(chunks[2]["choices"][0]["delta"], json({{"content", "llo"}}));
  EXPECT_EQ(chunks[3]["choices"][0]["delta"], json::object());
  EXPECT_EQ(chunks[3]["choices"][0]["finish_reason"], "length");
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(chunks[i]["choices"][0]["finish_reason"].is_null());
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(chunks[i]["usage"].is_null());
  EXPECT_EQ(chunks[4]["choices"], json::array());
  EXPECT_EQ(chunks[4]["usage"]["completion_tokens"], 5);
  EXPECT_EQ(lines[5], "[DONE]");
}

TEST(ChatCompletionsTest, StreamWithoutUsage) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  const auto response = client.Call("POST", kPath, Chat({{"stream", true}}).dump());
  const std::vector<std::string> lines = DataLines(response.body);
  ASSERT_EQ(lines.size(), 4u) << response.body;
  for (size_t i = 0; i < 3; ++i) EXPECT_FALSE(json::parse(lines[i]).contains("usage"));
}

TEST(ChatCompletionsTest, SeveralChoices) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  const json body = client.Call("POST", kPath, Chat({{"n", 3}, {"seed", 5}}).dump()).Json();
  ASSERT_EQ(body["choices"].size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(body["choices"][i]["index"], i);
    EXPECT_EQ(body["choices"][i]["seed"], 5 + i);
  }
}

TEST(ChatCompletionsTest, Logprobs) {
  HttpGateway gateway;
  gateway.trunk.SetResponder([](const SequenceRequest&) {
    return std::vector<SequenceUpdate>{WithLogprobs("\xC3"), WithLogprobs("\xA9"),
                                       LastUpdate(FinishReason::kStop)};
  });
  HttpClient client(gateway.port());
  const json fields = {{"logprobs", true}, {"top_logprobs", 2}};
  const json whole = client.Call("POST", kPath, Chat(fields).dump()).Json();
  const json& content = whole["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 2u);
  EXPECT_EQ(content[0]["token"], "bytes:\\xc3");
  EXPECT_EQ(content[0]["bytes"], json::array({0xC3}));
  EXPECT_EQ(content[0]["logprob"], -0.5);
  ASSERT_EQ(content[0]["top_logprobs"].size(), 2u);
  EXPECT_EQ(content[0]["top_logprobs"][1]["token"], "z");
  // Streamed, they are the same, whatever chunk they come in.
  json streaming = Chat(fields);
  streaming["stream"] = true;
  const auto response = client.Call("POST", kPath, streaming.dump());
  json streamed = json::array();
  for (const std::string& line : DataLines(response.body)) {
    if (line == "[DONE]") continue;
    const json chunk = json::parse(line)["choices"][0];
    if (chunk["logprobs"].is_null()) continue;
    for (const json& token : chunk["logprobs"]["content"]) streamed.push_back(token);
  }
  EXPECT_EQ(streamed, content);
}

TEST(ChatCompletionsTest, FailureDuringAStream) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  client.Send("POST", kPath, Chat({{"stream", true}}).dump());
  const auto call = gateway.trunk.WaitCall(0);
  call->SendIds(Ids("part"));
  client.ReadUntil("part");
  call->Fail(absl::UnavailableError("no holder"));
  const std::string rest = client.ReadUntil("0\r\n\r\n");
  EXPECT_THAT(rest, HasSubstr("data: {\"error\":"));
  EXPECT_THAT(rest, HasSubstr("no holder"));
  EXPECT_THAT(rest, Not(HasSubstr("[DONE]")));
}

TEST(ChatCompletionsTest, AClientThatLeavesCancels) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  client.Send("POST", kPath, Chat({{"n", 2}}).dump());
  const auto first = gateway.trunk.WaitCall(0);
  const auto second = gateway.trunk.WaitCall(1);
  client.Close();
  first->WaitCancelled();
  second->WaitCancelled();
}

TEST(ChatCompletionsTest, TextParts) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  const json parts = {{{"type", "text"}, {"text", "a"}}, {{"type", "text"}, {"text", "b"}}};
  const json body = {{"messages", {{{"role", "user"}, {"content", parts}}}}};
  ASSERT_EQ(client.Call("POST", kPath, body.dump()).status, 200);
  std::vector<int32_t> expected = {kBos};
  for (const int32_t id : Ids("user:a\nb|assistant:")) expected.push_back(id);
  EXPECT_EQ(gateway.trunk.WaitCall(0)->request().prompt, expected);
}

TEST(ChatCompletionsTest, RefusalsOfEarlierTurnsAreText) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  const json body = {{"messages",
                      {{{"role", "assistant"},
                        {"content", {{{"type", "refusal"}, {"refusal", "no"}}}},
                        {"refusal", nullptr}},
                       {{"role", "assistant"}, {"content", nullptr}, {"refusal", "never"}},
                       {{"role", "user"}, {"content", "b"}}}}};
  const auto response = client.Call("POST", kPath, body.dump());
  ASSERT_EQ(response.status, 200) << response.body;
  std::vector<int32_t> expected = {kBos};
  for (const int32_t id : Ids("assistant:no|assistant:never|user:b|assistant:")) expected.push_back(id);
  EXPECT_EQ(gateway.trunk.WaitCall(0)->request().prompt, expected);
}

// What a template has no name for goes in as a system message.
TEST(ChatCompletionsTest, DeveloperIsSystem) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  const json body = {
      {"messages", {{{"role", "developer"}, {"content", "a"}}, {{"role", "user"}, {"content", "b"}}}}};
  ASSERT_EQ(client.Call("POST", kPath, body.dump()).status, 200);
  std::vector<int32_t> expected = {kBos};
  for (const int32_t id : Ids("system:a|user:b|assistant:")) expected.push_back(id);
  EXPECT_EQ(gateway.trunk.WaitCall(0)->request().prompt, expected);
}

TEST(ChatCompletionsTest, Refusals) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  json many;
  for (int i = 0; i < 257; ++i) many["k" + std::to_string(i)] = i;
  const std::string user = R"("messages": [{"role": "user", "content": "hi"}])";
  const struct {
    std::string body;
    int status;
    const char* param;  // null: none
    const char* message;
  } cases[] = {
      {R"({"model": "test-model"})", 400, "messages", "missing"},
      {"{" + user + R"(, "model": "other"})", 404, nullptr, "'other' is not served"},
      {R"({"messages": [{"role": "robot", "content": "x"}]})", 400, "messages[0].role", "'robot'"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})", 400,
       "messages[0].content[0].type", "'image_url', and only text"},
      {R"({"messages": [{"role": "user", "content": [{"type": "refusal", "text": "x"}]}]})", 400,
       "messages[0].content[0].refusal", "missing"},
      {"{" + user + R"(, "functions": []})", 400, "functions", "use tools"},
      {"{" + user + R"(, "max_completion_tokens": 0})", 400, "max_completion_tokens", "less than 1"},
      {"{" + user + R"(, "tool_choice": "required"})", 400, "tool_choice", "tools are missing"},
      {"{" + user + R"(, "stream_options": 1})", 400, "stream_options", "not an object"},
      {"{" + user + R"(, "temperature": -1})", 400, "temperature", "-1, not in"},
      {"{" + user + R"(, "tools": [{"type": "function", "function": {"name": "a b"}}]})", 400,
       "tools[0].function.name", "characters other than"},
      {"{" + user +
           R"(, "response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}})",
       400, "response_format", "not"},
      {"{" + user + R"(, "grammar": "no grammar"})", 400, "grammar", "cannot be held to"},
      {"{" + user + ", \"chat_template_kwargs\": " + many.dump() + "}", 400, "chat_template_kwargs",
       "257 variables, more than 256"},
  };
  for (const auto& c : cases) {
    const auto response = client.Call("POST", kPath, c.body);
    ASSERT_EQ(response.status, c.status) << c.body << response.body;
    const json error = response.Json()["error"];
    EXPECT_EQ(error["param"], c.param == nullptr ? json() : json(c.param)) << response.body;
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(c.message));
    EXPECT_EQ(error["code"], c.status == 404 ? "model_not_found" : "invalid_argument");
  }
}

// The schema reaches the router as a grammar, which begins where the answer does.
TEST(ChatCompletionsTest, ResponseFormatBecomesAConstraint) {
  HttpGateway gateway;
  gateway.Answer({"{}"});
  HttpClient client(gateway.port());
  for (const char* format :
       {R"({"type": "json_object"})",
        R"({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}})"}) {
    const json body = Chat({{"response_format", json::parse(format)}});
    ASSERT_EQ(client.Call("POST", kPath, body.dump()).status, 200);
  }
  EXPECT_NE(gateway.trunk.WaitCall(0)->request().constraint.grammar, "");
  EXPECT_NE(gateway.trunk.WaitCall(1)->request().constraint.grammar, "");
  EXPECT_EQ(gateway.trunk.WaitCall(0)->request().constraint.begin_after, "");
}

json Tools() {
  return json::parse(R"([{"type": "function", "function": {"name": "add", "parameters":
      {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}])");
}

HttpGatewayOptions Roomy() {
  HttpGatewayOptions options;
  options.model.context_tokens = 8192;
  return options;
}

// The template of the test knows no tools: they are told of in a system message.
TEST(ChatCompletionsTest, CallsOfTools) {
  HttpGateway gateway(Roomy());
  gateway.Answer({"Well. <tool_call>{\"name\": \"add\",", " \"arguments\": {\"a\"", ": 1}}</tool_call>"});
  HttpClient client(gateway.port());
  const auto response = client.Call("POST", kPath, Chat({{"tools", Tools()}}).dump());
  ASSERT_EQ(response.status, 200) << response.body;
  const json choice = response.Json()["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"]["content"], "Well.");
  ASSERT_EQ(choice["message"]["tool_calls"].size(), 1u);
  const json call = choice["message"]["tool_calls"][0];
  EXPECT_THAT(call["id"].get<std::string>(), StartsWith("call_"));
  EXPECT_EQ(call["type"], "function");
  EXPECT_EQ(call["function"], json({{"name", "add"}, {"arguments", "{\"a\": 1}"}}));
  const std::vector<int32_t>& ids = gateway.trunk.WaitCall(0)->request().prompt;
  const std::string prompt(ids.begin() + 1, ids.end());
  EXPECT_THAT(prompt, StartsWith("system:You can call functions."));
  EXPECT_THAT(prompt, HasSubstr("\"name\":\"add\""));

  // Streamed, the first delta of a call has its id and name.
  json streaming = Chat({{"tools", Tools()}, {"stream", true}});
  json deltas = json::array();
  std::string reason;
  for (const std::string& line : DataLines(client.Call("POST", kPath, streaming.dump()).body)) {
    if (line == "[DONE]") continue;
    const json piece = json::parse(line)["choices"][0];
    if (piece["delta"].contains("tool_calls")) deltas.push_back(piece["delta"]["tool_calls"][0]);
    if (!piece["finish_reason"].is_null()) reason = piece["finish_reason"];
  }
  ASSERT_EQ(deltas.size(), 3u);
  EXPECT_THAT(deltas[0]["id"].get<std::string>(), StartsWith("call_"));
  deltas[0].erase("id");
  EXPECT_EQ(deltas[0],
            json({{"index", 0}, {"type", "function"}, {"function", {{"name", "add"}, {"arguments", ""}}}}));
  EXPECT_EQ(deltas[1], json({{"index", 0}, {"function", {{"arguments", "{\"a\""}}}}));
  EXPECT_EQ(deltas[2], json({{"index", 0}, {"function", {{"arguments", ": 1}"}}}}));
  EXPECT_EQ(reason, "tool_calls");
}

// The answer is free until a call begins, and a schema that no grammar can hold to is not held to.
TEST(ChatCompletionsTest, CallsAreHeldToTheirSchemaFromTheMarkerOn) {
  HttpGateway gateway(Roomy());
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  json body = Chat({{"tools", Tools()}});
  ASSERT_EQ(client.Call("POST", kPath, body.dump()).status, 200);
  const Constraint& constraint = gateway.trunk.WaitCall(0)->request().constraint;
  EXPECT_EQ(constraint.begin_after, "<tool_call>");
  EXPECT_TRUE(constraint.may_end_free);
  EXPECT_EQ(constraint.thought_end, "");
  EXPECT_THAT(constraint.grammar, HasSubstr("add"));
  json& function = body["tools"][0]["function"];
  function["parameters"]["not"] = json::object();
  ASSERT_EQ(client.Call("POST", kPath, body.dump()).status, 200);
  function["strict"] = true;
  const auto response = client.Call("POST", kPath, body.dump());
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(response.Json()["error"]["param"], "tools");
}

// Of a model that thinks, what it thinks has no calls.
TEST(ChatCompletionsTest, CallsOfAModelThatThinks) {
  HttpGatewayOptions options = Roomy();
  options.model.tokenizer.chat_template = "<think>";
  HttpGateway gateway(options);
  gateway.Answer({"<think>a <tool_call></think>b"});
  HttpClient client(gateway.port());
  const json body = Chat({{"tools", Tools()}, {"max_reasoning_tokens", 9}});
  const json message = client.Call("POST", kPath, body.dump()).Json()["choices"][0]["message"];
  EXPECT_EQ(message["reasoning_content"], "a <tool_call>");
  EXPECT_EQ(message["content"], "b");
  const SequenceRequest& request = gateway.trunk.WaitCall(0)->request();
  EXPECT_EQ(request.constraint.begin_after, "<tool_call>");
  EXPECT_EQ(request.constraint.thought_start, "<think>");
  EXPECT_EQ(request.constraint.thought_end, "</think>");
  EXPECT_EQ(request.reasoning.start_ids, Ids("<think>"));
  EXPECT_EQ(request.reasoning.close_ids, Ids("</think>"));
}

TEST(ChatCompletionsTest, ResponseFormatBesideTools) {
  HttpGateway gateway(Roomy());
  gateway.Answer({"{\"b\": 1}"});
  HttpClient client(gateway.port());
  const json format = json::parse(R"({"type": "json_schema", "json_schema": {"name": "n", "schema":
      {"type": "object", "properties": {"schema_name": {"type": "integer"}}}}})");
  json body = Chat({{"tools", Tools()}, {"response_format", format}});
  const json choice = client.Call("POST", kPath, body.dump()).Json()["choices"][0];
  EXPECT_EQ(choice["message"]["content"], "{\"b\": 1}");
  EXPECT_EQ(choice["finish_reason"], "stop");
  const Constraint& constraint = gateway.trunk.WaitCall(0)->request().constraint;
  EXPECT_EQ(constraint.begin_after, "");
  EXPECT_FALSE(constraint.may_end_free);
  EXPECT_THAT(constraint.grammar, HasSubstr("@\"<tool_call>\""));
  EXPECT_THAT(constraint.grammar, HasSubstr("schema_name"));
  body["response_format"]["json_schema"]["schema"] = {{"not", 1}};
  EXPECT_EQ(client.Call("POST", kPath, body.dump()).Json()["error"]["param"], "response_format");
  body.erase("response_format");
  body["grammar"] = "root ::= \"a\"";
  EXPECT_EQ(client.Call("POST", kPath, body.dump()).Json()["error"]["param"], "grammar");
}

TEST(ChatCompletionsTest, AForcedCallBeginsInThePrompt) {
  HttpGateway gateway(Roomy());
  gateway.Answer({"\n{\"name\": \"add\", \"arguments\": {\"a\"", ": 1}}\n</tool_call>"});
  HttpClient client(gateway.port());
  const json body = Chat({{"tools", Tools()}, {"tool_choice", "required"}});
  const json choice = client.Call("POST", kPath, body.dump()).Json()["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_TRUE(choice["message"]["content"].is_null());
  EXPECT_EQ(choice["message"]["tool_calls"][0]["function"]["arguments"], "{\"a\": 1}");
  const SequenceRequest& request = gateway.trunk.WaitCall(0)->request();
  EXPECT_THAT(std::string(request.prompt.begin() + 1, request.prompt.end()),
              testing::EndsWith("assistant:<tool_call>"));
  EXPECT_THAT(request.constraint.grammar, HasSubstr("add"));
}

// Calls and results of earlier turns are written into the messages.
TEST(ChatCompletionsTest, HistoryOfCalls) {
  HttpGateway gateway(Roomy());
  gateway.Answer({"1"});
  HttpClient client(gateway.port());
  const char* body = R"({"messages": [{"role": "user", "content": "x"},
      {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
        "function": {"name": "add", "arguments": "{\"a\": 1}"}}]},
      {"role": "tool", "tool_call_id": "1", "content": "one"}, {"role": "tool", "tool_call_id": "2", "content": "two"}]})";
  ASSERT_EQ(client.Call("POST", kPath, body).status, 200);
  const std::vector<int32_t>& ids = gateway.trunk.WaitCall(0)->request().prompt;
  EXPECT_EQ(std::string(ids.begin() + 1, ids.end()),
            "user:x|assistant:<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>|"
            "user:<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>|assistant:");
}

TEST(OpenAiApiTest, OneModel) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  const json model = client.Call("GET", "/v1/models/test%2Dmodel").Json();
  EXPECT_EQ(model["id"], "test-model");
  EXPECT_EQ(model["object"], "model");
  const auto response = client.Call("GET", "/v1/models/other/one");
  EXPECT_EQ(response.status, 404);
  EXPECT_EQ(response.Json()["error"]["code"], "model_not_found");
}

TEST(OpenAiApiTest, WhatIsNotServedSaysWhatIs) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  for (const char* path : {"/v1/responses", "/v1/responses/resp_1", "/v1/embeddings"}) {
    const auto response = client.Call("POST", path, "{}");
    EXPECT_EQ(response.status, 404);
    EXPECT_THAT(response.Json()["error"]["message"].get<std::string>(), HasSubstr("/v1/chat/completions"));
  }
}

TEST(OpenAiApiTest, RequestIds) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  client.Send("POST", kPath, Chat().dump(),
              "Content-Type: application/json\r\nX-Request-Id: a.b:c-1\r\ntraceparent: "
              "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n");
  EXPECT_EQ(client.Read().Header("X-Request-Id"), "a.b:c-1");
  EXPECT_EQ(gateway.trunk.WaitCall(0)->request().request_id, "a.b:c-1");
  EXPECT_EQ(gateway.trunk.WaitCall(0)->request().traceparent,
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  for (const std::string& bad : {std::string("a b"), std::string("a\"b"), std::string(129, 'a')}) {
    client.Send(
        "POST", kPath, Chat().dump(),
        "Content-Type: application/json\r\nX-Request-Id: " + bad + "\r\ntraceparent: 00-00-00-00\r\n");
    EXPECT_THAT(client.Read().Header("X-Request-Id"), StartsWith("req-"));
  }
  EXPECT_EQ(gateway.trunk.WaitCall(1)->request().traceparent, "");
  EXPECT_THAT(client.Call("GET", "/nowhere").Header("X-Request-Id"), StartsWith("req-"));
  client.SendRaw("nonsense\r\n\r\n");
  EXPECT_THAT(client.Read().Header("X-Request-Id"), StartsWith("req-"));
}

TEST(OpenAiApiTest, Detokenize) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  EXPECT_EQ(client.Call("POST", "/detokenize", R"({"ids": [256, 104, 105]})").Json()["text"], "<s>hi");
  EXPECT_EQ(
      client.Call("POST", "/detokenize", R"({"ids": [256, 104, 195], "special": false})").Json()["text"],
      "h\xEF\xBF\xBD");
  const auto response = client.Call("POST", "/detokenize", R"({"ids": [1, 258]})");
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(response.Json()["error"]["param"], "ids[1]");
}

}  // namespace
}  // namespace moepool
