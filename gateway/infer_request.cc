#include "gateway/infer_request.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

using nlohmann::json;

constexpr char kFieldPayload[] = "moepool/field";
constexpr int kMaxJsonDepth = 32;
constexpr int64_t kMaxJsonValues = 100'000;
constexpr size_t kMaxShownKeyBytes = 64;  // of a client's key in a message

// Depth and number of values of a text that need not be valid, so that the parser builds nothing large or
// deep.
absl::Status CheckJsonSize(std::string_view body) {
  int depth = 0;
  int64_t values = 1;
  bool in_string = false;
  for (size_t i = 0; i < body.size(); ++i) {
    const char c = body[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (c == ',' || c == '[' || c == '{') ++values;
    if (depth > kMaxJsonDepth)
      return absl::InvalidArgumentError(absl::StrCat("JSON deeper than ", kMaxJsonDepth, " levels"));
    if (values > kMaxJsonValues) {
      return absl::InvalidArgumentError(absl::StrCat("JSON of more than ", kMaxJsonValues, " values"));
    }
  }
  return absl::OkStatus();
}

// A value as an error shows it: short, and never text of a prompt.
std::string Shown(const json& value) {
  if (value.is_number() || value.is_boolean()) return value.dump();
  return value.type_name();
}

absl::Status ReadBool(const std::string& field, const json& value, bool* out) {
  if (!value.is_boolean()) return InvalidField(field, absl::StrCat("is ", Shown(value), ", not a boolean"));
  *out = value.get<bool>();
  return absl::OkStatus();
}

absl::Status ReadDouble(const std::string& field, const json& value, double* out) {
  if (!value.is_number()) return InvalidField(field, absl::StrCat("is ", Shown(value), ", not a number"));
  *out = value.get<double>();
  return absl::OkStatus();
}

absl::Status ReadInt32(const std::string& field, const json& value, int32_t* out) {
  if (!value.is_number_integer())
    return InvalidField(field, absl::StrCat("is ", Shown(value), ", not an integer"));
  constexpr int64_t kMin = std::numeric_limits<int32_t>::min();
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  const bool too_large = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kMax);
  if (too_large || value.get<int64_t>() < kMin) {
    return InvalidField(field, absl::StrCat("is ", Shown(value), ", not in [", kMin, ", ", kMax, "]"));
  }
  *out = static_cast<int32_t>(value.get<int64_t>());
  return absl::OkStatus();
}

absl::Status ReadSeed(const std::string& field, const json& value, std::optional<uint64_t>* out) {
  if (!value.is_number_unsigned()) {
    return InvalidField(field, absl::StrCat("is ", Shown(value), ", not an integer in [0, 2^64)"));
  }
  *out = value.get<uint64_t>();
  return absl::OkStatus();
}

absl::Status ReadString(const std::string& field, const json& value, std::string* out) {
  if (!value.is_string()) return InvalidField(field, absl::StrCat("is ", Shown(value), ", not a string"));
  *out = value.get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadStrings(const std::string& field, const json& value, size_t max_strings,
                         std::vector<std::string>* out) {
  out->clear();
  if (value.is_string()) {
    out->push_back(value.get<std::string>());
    return absl::OkStatus();
  }
  if (!value.is_array())
    return InvalidField(field, absl::StrCat("is ", Shown(value), ", not a string or a list of strings"));
  if (value.size() > max_strings) {
    return InvalidField(field, absl::StrCat("has ", value.size(), " strings, more than ", max_strings));
  }
  for (size_t i = 0; i < value.size(); ++i) {
    MOEPOOL_RETURN_IF_ERROR(ReadString(absl::StrCat(field, "[", i, "]"), value[i], &out->emplace_back()));
  }
  return absl::OkStatus();
}

// {"id": bias}, with ids written as JSON writes integers.
absl::Status ReadLogitBias(const std::string& field, const json& value, std::vector<LogitBias>* out) {
  if (!value.is_object()) return InvalidField(field, absl::StrCat("is ", Shown(value), ", not an object"));
  for (const auto& [key, bias] : value.items()) {
    const std::string name = absl::StrCat(field, "[", key.substr(0, kMaxShownKeyBytes), "]");
    LogitBias& entry = out->emplace_back();
    if (!absl::SimpleAtoi(key, &entry.id) || absl::StrCat(entry.id) != key) {
      return InvalidField(name, "is for no token id");
    }
    MOEPOOL_RETURN_IF_ERROR(ReadDouble(name, bias, &entry.bias));
  }
  std::sort(out->begin(), out->end(), [](const LogitBias& a, const LogitBias& b) { return a.id < b.id; });
  return absl::OkStatus();
}

absl::Status ReadMessages(const std::string& field, const json& value, std::vector<ChatMessage>* out) {
  if (!value.is_array()) return InvalidField(field, absl::StrCat("is ", Shown(value), ", not a list"));
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string at = absl::StrCat(field, "[", i, "]");
    if (!value[i].is_object())
      return InvalidField(at, absl::StrCat("is ", Shown(value[i]), ", not an object"));
    ChatMessage& message = out->emplace_back();
    for (const auto& [key, member] : value[i].items()) {
      const std::string name = absl::StrCat(at, ".", key.substr(0, kMaxShownKeyBytes));
      if (key == "role") {
        MOEPOOL_RETURN_IF_ERROR(ReadString(name, member, &message.role));
      } else if (key == "content") {
        MOEPOOL_RETURN_IF_ERROR(ReadString(name, member, &message.content));
      } else {
        return InvalidField(name, "is not a known field");
      }
    }
    for (const char* key : {"role", "content"}) {
      if (!value[i].contains(key)) return InvalidField(absl::StrCat(at, ".", key), "is missing");
    }
  }
  return absl::OkStatus();
}

// Looks for a key that stands twice in one object, while a text is parsed: the parser would keep the last.
class RepeatedKeys {
 public:
  void See(json::parse_event_t event, const json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
        open_.emplace_back();
        break;
      case json::parse_event_t::object_end:
        open_.pop_back();
        break;
      case json::parse_event_t::key: {
        open_.back().last = parsed.get<std::string>();
        if (!open_.back().keys.insert(open_.back().last).second && found_.empty()) found_ = Path();
        break;
      }
      default:
        break;
    }
  }
  // Of the first one; empty where there is none.
  const std::string& found() const { return found_; }

 private:
  struct Object {
    absl::flat_hash_set<std::string> keys;
    std::string last;
  };
  std::string Path() const {
    std::string path;
    for (const Object& object : open_) {
      absl::StrAppend(&path, path.empty() ? "" : ".", object.last.substr(0, kMaxShownKeyBytes));
    }
    return path;
  }

  std::vector<Object> open_;
  std::string found_;
};

absl::Status CheckStrings(const std::string& field, const std::vector<std::string>& strings,
                          size_t max_strings, size_t max_bytes) {
  if (strings.size() > max_strings) {
    return InvalidField(field, absl::StrCat("has ", strings.size(), " strings, more than ", max_strings));
  }
  for (size_t i = 0; i < strings.size(); ++i) {
    const size_t bytes = strings[i].size();
    if (bytes > 0 && bytes <= max_bytes) continue;
    return InvalidField(absl::StrCat(field, "[", i, "]"),
                        absl::StrCat("has ", bytes, " bytes, not 1 to ", max_bytes));
  }
  return absl::OkStatus();
}

using Reader = std::function<absl::Status(const std::string& field, const json& value)>;

// Calls the reader of each member; unknown members are errors, nulls absent.
absl::Status ReadObject(const json& object, const std::map<std::string, Reader>& readers) {
  if (!object.is_object())
    return absl::InvalidArgumentError(absl::StrCat("the body is ", Shown(object), ", not an object"));
  for (const auto& [key, value] : object.items()) {
    const auto reader = readers.find(key);
    if (reader == readers.end()) {
      return InvalidField(key.substr(0, kMaxShownKeyBytes), "is not a known field");
    }
    if (!value.is_null()) MOEPOOL_RETURN_IF_ERROR(reader->second(key, value));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status InvalidField(const std::string& field, const std::string& message) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(field, " ", message));
  status.SetPayload(kFieldPayload, absl::Cord(field));
  return status;
}

std::string FieldOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kFieldPayload);
  return payload.has_value() ? std::string(*payload) : std::string();
}

absl::Status SamplingField(const absl::Status& status) {
  if (status.ok()) return status;
  const std::string message(status.message());
  const size_t space = message.find(' ');
  return InvalidField(message.substr(0, space), message.substr(space + 1));
}

absl::Status ValidateInferRequest(const InferRequest& request) {
  MOEPOOL_RETURN_IF_ERROR(SamplingField(ValidateSampling(request.sampling)));
  if (request.max_tokens < 1)
    return InvalidField("max_tokens", absl::StrCat("is ", request.max_tokens, ", less than 1"));
  if (request.sampling.min_tokens > request.max_tokens) {
    return InvalidField("min_tokens", absl::StrCat("is ", request.sampling.min_tokens,
                                                   ", more than max_tokens, which is ", request.max_tokens));
  }
  if (request.n < 1 || request.n > kMaxAnswers) {
    return InvalidField("n", absl::StrCat("is ", request.n, ", not in [1, ", kMaxAnswers, "]"));
  }
  MOEPOOL_RETURN_IF_ERROR(CheckStrings("stop", request.stop, kMaxStopStrings, kMaxStopBytes));
  MOEPOOL_RETURN_IF_ERROR(CheckStrings("dry_sequence_breakers", request.dry_sequence_breakers,
                                       kMaxDryBreakers, kMaxDryBreakerBytes));
  if (const auto* messages = std::get_if<std::vector<ChatMessage>>(&request.input)) {
    if (messages->empty()) return InvalidField("messages", "is empty");
    if (request.raw) return InvalidField("raw", "is true, which goes with prompt, not with messages");
  }
  return absl::OkStatus();
}

absl::StatusOr<json> ParseJson(std::string_view body) {
  MOEPOOL_RETURN_IF_ERROR(CheckJsonSize(body));
  try {
    RepeatedKeys repeated;
    json value = json::parse(body, [&](int, json::parse_event_t event, const json& parsed) {
      repeated.See(event, parsed);
      return true;
    });
    if (!repeated.found().empty()) return InvalidField(repeated.found(), "is given twice");
    return value;
  } catch (const json::parse_error& e) {
    const bool utf8 = std::string_view(e.what()).find("UTF-8") != std::string_view::npos;
    return absl::InvalidArgumentError(absl::StrCat(
        utf8 ? "the body is not valid UTF-8" : "the body is not valid JSON", ", at byte ", e.byte));
  } catch (const json::exception&) {  // a number beyond f64
    return absl::InvalidArgumentError("the body is not valid JSON: a number is out of range");
  }
}

absl::StatusOr<InferRequest> ParseInferRequest(std::string_view body) {
  MOEPOOL_ASSIGN_OR_RETURN(const json object, ParseJson(body));
  InferRequest r;
  std::optional<std::string> prompt;
  std::optional<std::vector<ChatMessage>> messages;
  const auto to_double = [](double* out) -> Reader {
    return [out](const std::string& field, const json& value) { return ReadDouble(field, value, out); };
  };
  const auto to_int = [](int32_t* out) -> Reader {
    return [out](const std::string& field, const json& value) { return ReadInt32(field, value, out); };
  };
  const auto to_bool = [](bool* out) -> Reader {
    return [out](const std::string& field, const json& value) { return ReadBool(field, value, out); };
  };
  const std::map<std::string, Reader> readers = {
      {"prompt",
       [&](const auto& field, const auto& value) { return ReadString(field, value, &prompt.emplace()); }},
      {"messages",
       [&](const auto& field, const auto& value) { return ReadMessages(field, value, &messages.emplace()); }},
      {"stop", [&](const auto& field,
                   const auto& value) { return ReadStrings(field, value, kMaxStopStrings, &r.stop); }},
      {"dry_sequence_breakers",
       [&](const auto& field, const auto& value) {
         return ReadStrings(field, value, kMaxDryBreakers, &r.dry_sequence_breakers);
       }},
      {"logit_bias", [&](const auto& field,
                         const auto& value) { return ReadLogitBias(field, value, &r.sampling.logit_bias); }},
      {"repeat_last_n",
       [&](const auto& field, const auto& value) {
         return ReadInt32(field, value, &r.sampling.repeat_last_n.emplace());
       }},
      {"seed", [&](const auto& field, const auto& value) { return ReadSeed(field, value, &r.seed); }},
      {"stream", to_bool(&r.stream)},
      {"raw", to_bool(&r.raw)},
      {"max_tokens", to_int(&r.max_tokens)},
      {"top_k", to_int(&r.sampling.top_k)},
      {"temperature", to_double(&r.sampling.temperature)},
      {"top_p", to_double(&r.sampling.top_p)},
      {"min_p", to_double(&r.sampling.min_p)},
      {"presence_penalty", to_double(&r.sampling.presence_penalty)},
      {"frequency_penalty", to_double(&r.sampling.frequency_penalty)},
      {"repetition_penalty", to_double(&r.sampling.repetition_penalty)},
      {"n", to_int(&r.n)},
      {"ignore_eos", to_bool(&r.ignore_eos)},
      {"min_tokens", to_int(&r.sampling.min_tokens)},
      {"logprobs", to_bool(&r.sampling.logprobs)},
      {"top_logprobs", to_int(&r.sampling.top_logprobs)},
      {"dry_multiplier", to_double(&r.sampling.dry.multiplier)},
      {"dry_base", to_double(&r.sampling.dry.base)},
      {"dry_allowed_length", to_int(&r.sampling.dry.allowed_length)},
      {"dry_penalty_last_n", to_int(&r.sampling.dry.penalty_last_n)},
  };
  MOEPOOL_RETURN_IF_ERROR(ReadObject(object, readers));
  if (prompt.has_value() && messages.has_value())
    return InvalidField("messages", "and prompt are both given");
  if (messages.has_value()) {
    r.input = *std::move(messages);
  } else if (prompt.has_value()) {
    r.input = *std::move(prompt);
  } else {
    return InvalidField("prompt", "is missing, and so is messages");
  }
  MOEPOOL_RETURN_IF_ERROR(ValidateInferRequest(r));
  return r;
}

absl::StatusOr<TokenizeTextRequest> ParseTokenizeRequest(std::string_view body) {
  MOEPOOL_ASSIGN_OR_RETURN(const json object, ParseJson(body));
  TokenizeTextRequest r;
  std::optional<std::string> text;
  MOEPOOL_RETURN_IF_ERROR(ReadObject(
      object, {{"text", [&](const auto& field,
                            const auto& value) { return ReadString(field, value, &text.emplace()); }},
               {"parse_special", [&](const auto& field, const auto& value) {
                  return ReadBool(field, value, &r.parse_special);
                }}}));
  if (!text.has_value()) return InvalidField("text", "is missing");
  r.text = *std::move(text);
  return r;
}

}  // namespace moepool
