// Servers over HTTP, with server-sent events.
#include <functional>
#include <utility>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "nlohmann/json.hpp"
#include "tools/bench_server.h"
#include "tools/http_stream.h"

namespace moepool {
namespace {

using nlohmann::json;

constexpr absl::Duration kShortCall = absl::Seconds(60);
constexpr int kMaxDoublings = 20;

absl::StatusOr<json> Call(HttpClient* client, const std::string& path, const std::string& body,
                          absl::Time deadline) {
  MOEPOOL_ASSIGN_OR_RETURN(const HttpAnswer answer, client->Exchange(path, body, deadline));
  if (answer.status != 200) {
    return absl::UnavailableError(StrCat(path, ": HTTP ", answer.status, " ", answer.body.substr(0, 200)));
  }
  json parsed = json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) return absl::DataLossError(StrCat(path, ": not JSON"));
  return parsed;
}

// What an event tells; a protocol's reading of one.
struct EventNews {
  bool has_tokens = false;
  int tokens = 0;         // in all, where the event says
  int prompt_tokens = 0;  // as tokens
  int cached_tokens = 0;  // as tokens
};
using ReadEvent = std::function<EventNews(const json&)>;

int Integer(const json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it != object.end() && it->is_number_integer() ? it->get<int>() : 0;
}

bool HasText(const json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it != object.end() && it->is_string() && !it->get_ref<const std::string&>().empty();
}

absl::StatusOr<Generated> Stream(HttpClient* client, const std::string& path, const json& body,
                                 absl::Time deadline, const ReadEvent& read) {
  Generated generated;
  absl::Status failed;
  EventLines lines([&](std::string_view data) {
    if (data == "[DONE]" || !failed.ok()) return;
    const double now = SteadySeconds();
    const json event = json::parse(data, nullptr, /*allow_exceptions=*/false);
    if (!event.is_object() || event.contains("error")) {
      failed = absl::UnavailableError(StrCat("event: ", data.substr(0, 200)));
      return;
    }
    const EventNews news = read(event);
    if (news.has_tokens) generated.events_s.push_back(now);
    if (news.tokens > 0) generated.tokens = news.tokens;
    if (news.prompt_tokens > 0) generated.prompt_tokens = news.prompt_tokens;
    if (news.cached_tokens > 0) generated.cached_tokens = news.cached_tokens;
  });
  MOEPOOL_ASSIGN_OR_RETURN(
      const HttpAnswer answer,
      client->Exchange(path, body.dump(), deadline, [&](std::string_view bytes) { lines.Feed(bytes); }));
  if (answer.status != 200) return absl::UnavailableError(StrCat("HTTP ", answer.status));
  if (!failed.ok()) return failed;
  return generated;
}

// A gateway of ours takes text, so text of so many tokens is looked for.
class MoepoolServer final : public BenchServer {
 public:
  explicit MoepoolServer(HostPort address) : client_(std::move(address)) {}

  absl::StatusOr<BenchPrompt> MakePrompt(int tokens, std::mt19937_64* random) override {
    // Too many words; then the most of them that fit; then a word of one token for each token that is
    // missing.
    const auto wanted = static_cast<size_t>(tokens);
    std::vector<std::string> words;
    for (int doubling = 0;; ++doubling) {
      if (doubling == kMaxDoublings) return NoPrompt(tokens);
      for (size_t more = std::max<size_t>(words.size(), 8); more > 0; --more) words.push_back(Word(random));
      MOEPOOL_ASSIGN_OR_RETURN(const std::vector<int32_t> all, Ids(Join(words, words.size())));
      if (all.size() > wanted) break;
    }
    size_t fits = 0;
    size_t too_many = words.size();
    while (too_many - fits > 1) {
      const size_t middle = (fits + too_many) / 2;
      MOEPOOL_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Ids(Join(words, middle)));
      (ids.size() <= wanted ? fits : too_many) = middle;
    }
    const std::string text = Join(words, fits);
    MOEPOOL_ASSIGN_OR_RETURN(const std::vector<int32_t> found, Ids(text));
    for (char filler = 'a'; filler <= 'z'; ++filler) {
      std::string whole = text;
      for (size_t i = found.size(); i < wanted; ++i) whole += {' ', filler};
      MOEPOOL_ASSIGN_OR_RETURN(std::vector<int32_t> ids, Ids(whole));
      if (ids.size() == wanted) return BenchPrompt{std::move(whole), std::move(ids)};
    }
    return NoPrompt(tokens);
  }

  absl::StatusOr<Generated> Generate(const BenchPrompt& prompt, int tokens, absl::Time deadline) override {
    return Stream(&client_, "/infer",
                  {{"prompt", prompt.text},
                   {"raw", true},
                   {"max_tokens", tokens},
                   {"ignore_eos", true},
                   {"temperature", 0},
                   {"stream", true}},
                  deadline, [](const json& event) {
                    EventNews news;
                    news.has_tokens = HasText(event, "text");
                    if (event.contains("usage")) {
                      news.tokens = Integer(event["usage"], "completion_tokens");
                      news.prompt_tokens = Integer(event["usage"], "prompt_tokens");
                      news.cached_tokens = Integer(event["usage"], "cached_tokens");
                    }
                    return news;
                  });
  }

 private:
  static std::string Word(std::mt19937_64* random) {
    std::string word;
    for (size_t letters = 2 + (*random)() % 7; letters > 0; --letters) {
      word += static_cast<char>('a' + (*random)() % 26);
    }
    return word;
  }
  static std::string Join(const std::vector<std::string>& words, size_t count) {
    std::string text;
    for (size_t i = 0; i < count; ++i) text += StrCat(i == 0 ? "" : " ", words[i]);
    return text;
  }
  static absl::Status NoPrompt(int tokens) {
    return absl::FailedPreconditionError(StrCat("no text of ", tokens, " tokens was found"));
  }
  absl::StatusOr<std::vector<int32_t>> Ids(const std::string& text) {
    MOEPOOL_ASSIGN_OR_RETURN(const json answer, Call(&client_, "/tokenize", json{{"text", text}}.dump(),
                                                     absl::Now() + kShortCall));
    const auto ids = answer.find("ids");
    if (ids == answer.end() || !ids->is_array()) {
      return absl::DataLossError("/tokenize: an answer without ids");
    }
    std::vector<int32_t> read;
    for (const json& id : *ids) {
      if (!id.is_number_integer()) return absl::DataLossError("/tokenize: an id that is no integer");
      read.push_back(id.get<int32_t>());
    }
    return read;
  }

  HttpClient client_;
};

class IdServer : public BenchServer {
 public:
  IdServer(HostPort address, int vocab) : client_(std::move(address)), vocab_(vocab) {}
  absl::StatusOr<BenchPrompt> MakePrompt(int tokens, std::mt19937_64* random) override {
    return BenchPrompt{{}, RandomIds(tokens, vocab_, random)};
  }

 protected:
  HttpClient client_;
  const int vocab_;
};

class LlamaServer final : public IdServer {
 public:
  using IdServer::IdServer;
  absl::StatusOr<Generated> Generate(const BenchPrompt& prompt, int tokens, absl::Time deadline) override {
    return Stream(&client_, "/completion",
                  {{"prompt", prompt.ids},
                   {"n_predict", tokens},
                   {"ignore_eos", true},
                   {"cache_prompt", false},
                   {"temperature", 0},
                   {"stream", true}},
                  deadline, [](const json& event) {
                    EventNews news;
                    news.has_tokens = HasText(event, "content");
                    news.tokens = Integer(event, "tokens_predicted");
                    news.prompt_tokens = Integer(event, "tokens_evaluated");
                    return news;
                  });
  }
};

class OpenAiServer final : public IdServer {
 public:
  OpenAiServer(HostPort address, int vocab, std::string model)
      : IdServer(std::move(address), vocab), model_(std::move(model)) {}
  absl::StatusOr<Generated> Generate(const BenchPrompt& prompt, int tokens, absl::Time deadline) override {
    return Stream(&client_, "/v1/completions",
                  {{"model", model_},
                   {"prompt", prompt.ids},
                   {"max_tokens", tokens},
                   {"ignore_eos", true},
                   {"temperature", 0},
                   {"stream", true},
                   {"stream_options", {{"include_usage", true}}}},
                  deadline, [](const json& event) {
                    EventNews news;
                    if (const auto choices = event.find("choices");
                        choices != event.end() && choices->is_array() && !choices->empty()) {
                      news.has_tokens = HasText(choices->front(), "text");
                    }
                    if (const auto usage = event.find("usage"); usage != event.end()) {
                      news.tokens = Integer(*usage, "completion_tokens");
                      news.prompt_tokens = Integer(*usage, "prompt_tokens");
                    }
                    return news;
                  });
  }

 private:
  const std::string model_;
};

}  // namespace

std::vector<int32_t> RandomIds(int count, int vocab, std::mt19937_64* random) {
  std::vector<int32_t> ids;
  for (int i = 0; i < count; ++i) {
    ids.push_back(static_cast<int32_t>((*random)() % static_cast<uint64_t>(vocab)));
  }
  return ids;
}

absl::StatusOr<std::unique_ptr<BenchServer>> MakeHttpBenchServer(const std::string& protocol,
                                                                 const HostPort& address, int vocab,
                                                                 absl::Time deadline) {
  if (protocol == "moepool") return std::make_unique<MoepoolServer>(address);
  HttpClient client(address);
  MOEPOOL_ASSIGN_OR_RETURN(const json models, Call(&client, "/v1/models", "", deadline));
  std::string model;
  if (const auto data = models.find("data"); data != models.end() && data->is_array() && !data->empty()) {
    const json& first = data->front();
    if (HasText(first, "id")) model = first["id"].get<std::string>();
    if (const auto meta = first.find("meta"); vocab == 0 && meta != first.end())
      vocab = Integer(*meta, "n_vocab");
  }
  if (vocab <= 0) {
    return absl::FailedPreconditionError(
        StrCat(address.ToString(), " does not say how large its vocabulary is; --vocab is needed"));
  }
  if (protocol == "llama") return std::make_unique<LlamaServer>(address, vocab);
  return std::make_unique<OpenAiServer>(address, vocab, std::move(model));
}

}  // namespace moepool
