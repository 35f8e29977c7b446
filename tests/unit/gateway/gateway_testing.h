// A gateway's HTTP side over a fake trunk and a tokenizer of single bytes, and a plain client for it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "boost/asio/connect.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/read.hpp"
#include "boost/asio/write.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/http/parser.hpp"
#include "boost/beast/http/read.hpp"
#include "boost/beast/http/string_body.hpp"
#include "common/base/status_macros.h"
#include "common/trunk/fake_trunk.h"
#include "gateway/gateway_metrics.h"
#include "gateway/http/http_api.h"
#include "gateway/http/openai_error.h"
#include "gateway/inference.h"
#include "gateway/model_watcher.h"
#include "nlohmann/json.hpp"

namespace moepool {

inline constexpr int32_t kBos = 256;
inline constexpr int32_t kEos = 257;
inline constexpr int32_t kVocab = 258;

// Ids 0 to 255 are bytes.
class ByteTokenizer : public Tokenizer {
 public:
  explicit ByteTokenizer(TokenizerSpec spec) : spec_(std::move(spec)) {}
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool parse_special) const override {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < text.size(); ++i) {
      if (parse_special && text.substr(i, 3) == "<s>") {
        ids.push_back(kBos);
        i += 2;
      } else {
        ids.push_back(static_cast<uint8_t>(text[i]));
      }
    }
    return ids;
  }
  std::string Bytes(int32_t id, bool special) const override {
    if (id >= 0 && id < 256) return std::string(1, static_cast<char>(id));
    if (!special) return "";
    return id == kBos ? "<s>" : id == kEos ? "</s>" : "";
  }
  bool EndsGeneration(int32_t id) const override { return id == kEos; }
  int32_t VocabSize() const override { return kVocab; }
  const TokenizerSpec& Spec() const override { return spec_; }

 private:
  const TokenizerSpec spec_;
};

// bos "role:content|" for each message, then "assistant:".
class PlainTemplate : public ChatTemplate {
 public:
  absl::StatusOr<std::string> Render(const nlohmann::ordered_json& variables, absl::Time) const override {
    std::string text = variables.at("bos_token").get<std::string>();
    for (const auto& message : variables.at("messages")) {
      if (message.at("role") == "refused") return absl::InvalidArgumentError("no such role");
      const nlohmann::ordered_json& content = message.at("content");
      text += message.at("role").get<std::string>() + ":";
      text += (content.is_string() ? content.get<std::string>() : "") + "|";
    }
    if (variables.at("add_generation_prompt").get<bool>()) text += "assistant:";
    return text;
  }
};

inline ModelInfo TestModelInfo() {
  ModelInfo info;
  info.name = "test-model";
  info.family = "llama";
  info.digest[0] = 1;
  info.context_tokens = 128;
  info.vocab_size = kVocab;
  info.layers = 2;
  info.experts = 16;
  info.experts_per_token = 2;
  info.tokenizer.bos_id = kBos;
  info.tokenizer.eos_id = kEos;
  info.tokenizer.add_bos = true;
  info.tokenizer.chat_template = "plain";
  return info;
}

inline absl::StatusOr<std::shared_ptr<const ServedModel>> MakeTestModel(ModelInfo info) {
  ServedModel model;
  model.tokenizer = std::make_unique<ByteTokenizer>(info.tokenizer);
  if (!info.tokenizer.chat_template.empty()) model.chat_template = std::make_unique<PlainTemplate>();
  model.info = std::move(info);
  return FinishServedModel(std::move(model));
}

// Payloads of a stream's `data:` lines, in order, the chunked framing taken off.
inline std::vector<std::string> DataLines(const std::string& body) {
  std::vector<std::string> lines;
  for (size_t at = body.find("data: "); at != std::string::npos; at = body.find("data: ", at)) {
    const size_t end = body.find("\n\n", at);
    lines.push_back(body.substr(at + 6, end - at - 6));
    at = end;
  }
  return lines;
}

inline std::vector<int32_t> Ids(std::string_view text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
  return ids;
}

inline SequenceUpdate IdsUpdate(std::string_view text) {
  SequenceUpdate update;
  update.ids = Ids(text);
  return update;
}

inline SequenceUpdate LastUpdate(FinishReason reason) {
  SequenceUpdate update;
  update.finished = true;
  update.reason = reason;
  update.cached_tokens = 3;
  update.queue_ms = 2.5;
  return update;
}

// A level that a thread raises and others wait for.
class Flag {
 public:
  void Set(bool value) {
    MutexLock lock(&mutex_);
    value_ = value;
    changed_.NotifyAll();
  }
  void Wait(bool value) {
    MutexLock lock(&mutex_);
    while (value_ != value) changed_.Wait(&mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool value_ GUARDED_BY(mutex_) = false;
};

class HttpClient {
 public:
  struct Response {
    int status = 0;
    std::string body;
    boost::beast::http::fields headers;
    nlohmann::json Json() const { return nlohmann::json::parse(body); }
    std::string Header(const std::string& name) const {
      const auto value = headers[name];
      return std::string(value.data(), value.size());
    }
  };

  explicit HttpClient(uint16_t port) : socket_(io_) {
    socket_.connect({boost::asio::ip::address_v4::loopback(), port});
  }
  void SendRaw(const std::string& data) { boost::asio::write(socket_, boost::asio::buffer(data)); }
  void Send(const std::string& method, const std::string& path, const std::string& body = "",
            const std::string& headers = "Content-Type: application/json\r\n") {
    SendRaw(method + " " + path + " HTTP/1.1\r\nHost: test\r\n" + headers +
            "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  }
  // A whole response; status 0 where the connection ends instead.
  Response Read(bool head = false) {
    boost::beast::http::response_parser<boost::beast::http::string_body> parser;
    parser.skip(head);
    parser.body_limit(64 << 20);
    boost::system::error_code error;
    boost::beast::http::read(socket_, buffer_, parser, error);
    if (error) return {};
    auto message = parser.release();
    return {static_cast<int>(message.result_int()), message.body(), message};
  }
  Response Call(const std::string& method, const std::string& path, const std::string& body = "") {
    Send(method, path, body);
    return Read(method == "HEAD");
  }
  // Raw bytes up to and with `end`; what there was where the connection ends first.
  std::string ReadUntil(const std::string& end) {
    std::string text;
    char c;
    boost::system::error_code error;
    while (text.size() < end.size() || text.compare(text.size() - end.size(), end.size(), end) != 0) {
      if (boost::asio::read(socket_, boost::asio::buffer(&c, 1), error) == 0) break;
      text += c;
    }
    return text;
  }
  // So many bytes; fewer where the connection ends first.
  std::string ReadBytes(size_t bytes) {
    std::string text(bytes, 0);
    boost::system::error_code error;
    text.resize(boost::asio::read(socket_, boost::asio::buffer(text), error));
    return text;
  }
  // Reads `bytes` and throws them away; false where the connection ends first.
  bool Skip(size_t bytes) { return ReadBytes(bytes).size() == bytes; }
  bool AtEnd() {
    char c;
    boost::system::error_code error;
    return boost::asio::read(socket_, boost::asio::buffer(&c, 1), error) == 0;
  }
  // Nothing more will be sent; what comes can still be read.
  void EndSending() { socket_.shutdown(boost::asio::ip::tcp::socket::shutdown_send); }
  void Close() { socket_.close(); }

 private:
  boost::asio::io_context io_;
  boost::asio::ip::tcp::socket socket_;
  boost::beast::flat_buffer buffer_;
};

struct HttpGatewayOptions {
  HttpServerOptions http;
  HttpApiOptions api;
  InferenceOptions inference;
  ModelInfo model = TestModelInfo();
  bool wait_ready = true;
};

class HttpGateway {
 public:
  explicit HttpGateway(const HttpGatewayOptions& options = {})
      : trunk(options.model),
        gateway_metrics_(&metrics),
        watcher(&trunk, MakeTestModel, {}, [this](bool value) { ready.Set(value); }),
        inference(&trunk, &watcher, &gateway_metrics_, options.inference),
        api_(&inference, &watcher, &metrics, options.api) {
    HttpServerOptions http = options.http;
    http.address = {"127.0.0.1", 0};
    auto started = HttpServer::Start(
        http,
        [this](HttpRequest request, std::shared_ptr<HttpResponder> responder) {
          api_.Handle(std::move(request), std::move(responder));
        },
        OpenAiErrorBody);
    MOEPOOL_CHECK(started.ok());
    server = *std::move(started);
    if (options.wait_ready) ready.Wait(true);
  }
  ~HttpGateway() {
    server->Drain(absl::Now());
    inference.Shutdown();
    server.reset();
  }
  uint16_t port() const { return server->address().port; }
  // Answers every request with these texts, one an update.
  void Answer(std::vector<std::string> texts, FinishReason reason = FinishReason::kStop) {
    trunk.SetResponder([texts = std::move(texts), reason](const SequenceRequest&) {
      std::vector<SequenceUpdate> updates;
      for (const std::string& text : texts) updates.push_back(IdsUpdate(text));
      updates.push_back(LastUpdate(reason));
      return updates;
    });
  }

  Flag ready;
  FakeTrunk trunk;
  Metrics metrics;

 private:
  GatewayMetrics gateway_metrics_;

 public:
  ModelWatcher watcher;
  Inference inference;

 private:
  HttpApi api_;

 public:
  std::unique_ptr<HttpServer> server;
};

}  // namespace moepool
