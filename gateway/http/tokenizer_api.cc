// Text to ids and back, in the gateway's own form and in vLLM's.
#include <utility>

#include "common/base/status_macros.h"
#include "gateway/http/http_api.h"
#include "gateway/openai/tokenize_request.h"

namespace moepool {
namespace {

using nlohmann::json;

absl::StatusOr<json> TokenizeBody(const std::string& body, const ServedModel& model) {
  MOEPOOL_ASSIGN_OR_RETURN(const auto prompt, ParsePromptToTokenize(body));
  std::vector<int32_t> ids;
  if (!prompt.has_value()) {
    MOEPOOL_ASSIGN_OR_RETURN(const TokenizeTextRequest own, ParseTokenizeRequest(body));
    MOEPOOL_ASSIGN_OR_RETURN(ids, EncodeText(model, own.text, own.parse_special));
  } else if (prompt->add_special_tokens) {
    MOEPOOL_ASSIGN_OR_RETURN(ids, EncodeText(model, prompt->text, /*parse_special=*/true));
  } else {
    MOEPOOL_ASSIGN_OR_RETURN(ids, model.tokenizer->Encode(prompt->text, /*parse_special=*/true));
  }
  json pieces = json::array();
  for (const int32_t id : ids) pieces.push_back(model.tokenizer->Bytes(id, /*special=*/true));
  json answer = {{"ids", ids}, {"pieces", std::move(pieces)}};
  if (prompt.has_value()) {
    answer["tokens"] = ids;
    answer["count"] = ids.size();
    answer["max_model_len"] = model.info.context_tokens;
  }
  return answer;
}

absl::StatusOr<json> DetokenizeBody(const std::string& body, const ServedModel& model) {
  MOEPOOL_ASSIGN_OR_RETURN(const auto tokens, ParseTokensToDetokenize(body));
  if (tokens.has_value()) {
    MOEPOOL_ASSIGN_OR_RETURN(const std::string text, DecodeIds(model, *tokens, /*special=*/true));
    return json({{"text", text}, {"prompt", text}});
  }
  MOEPOOL_ASSIGN_OR_RETURN(const DetokenizeRequest own, ParseDetokenizeRequest(body));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string text, DecodeIds(model, own.ids, own.special));
  return json({{"text", text}});
}

absl::StatusOr<json> DescribeTokenizer(const std::string&, const ServedModel& model) {
  const SpecialText special = SpecialTextOf(model);
  const auto text = [](const std::string& token) { return token.empty() ? json() : json(token); };
  return json({{"eos_token", text(special.eos)},
               {"bos_token", text(special.bos)},
               {"pad_token", nullptr},
               {"add_bos_token", model.info.tokenizer.add_bos},
               {"chat_template", text(model.info.tokenizer.chat_template)}});
}

}  // namespace

void HttpApi::Tokenize(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  WithModel(std::move(request), std::move(responder), TokenizeBody);
}

void HttpApi::Detokenize(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  WithModel(std::move(request), std::move(responder), DetokenizeBody);
}

void HttpApi::TokenizerInfo(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  WithModel(std::move(request), std::move(responder), DescribeTokenizer);
}

}  // namespace moepool
