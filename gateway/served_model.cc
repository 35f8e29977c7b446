#include "gateway/served_model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "gateway/json_fields.h"

namespace moepool {
namespace {

// Text of a token that a template may write, or an empty string where the model has none.
std::string TokenText(const ServedModel& model, int32_t id) {
  return id < 0 ? std::string() : model.tokenizer->Bytes(id, /*special=*/true);
}

// Control tokens among what marks thoughts and calls.
std::vector<int32_t> FindMarkerIds(const Tokenizer& tokenizer) {
  std::vector<int32_t> found;
  for (const char* marker :
       {"<think>", "</think>", "<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]",
        "[CALL_ID]", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"}) {
    const auto ids = tokenizer.Encode(marker, /*parse_special=*/true);
    if (ids.ok() && ids->size() == 1 && tokenizer.Bytes((*ids)[0], /*special=*/false).empty()) {
      found.push_back((*ids)[0]);
    }
  }
  return found;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ServedModel>> FinishServedModel(ServedModel model) {
  const int32_t vocab_size = model.tokenizer->VocabSize();
  if (vocab_size > model.info.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("model ", model.info.name, ": a tokenizer of ", vocab_size,
                                                   " tokens, and a vocabulary of ", model.info.vocab_size));
  }
  for (int32_t id = 0; id < vocab_size; ++id) {
    if (model.tokenizer->EndsGeneration(id)) model.stop_ids.push_back(id);
  }
  model.marker_ids = FindMarkerIds(*model.tokenizer);
  if (model.chat_template != nullptr) {
    model.syntax = DetectChatSyntax(*model.chat_template, model.info.tokenizer.chat_template,
                                    SpecialTextOf(model), absl::Now());
  }
  model.dry_breakers = std::make_unique<DryBreakerCache>(model.tokenizer.get());
  return std::make_shared<const ServedModel>(std::move(model));
}

absl::Status CheckServedName(const ServedModel& model, std::string_view asked) {
  if (asked == model.info.name || std::ranges::find(model.aliases, asked) != model.aliases.end()) {
    return absl::OkStatus();
  }
  const std::string others =
      model.aliases.empty() ? "" : absl::StrCat(", '", absl::StrJoin(model.aliases, "', '"), "'");
  return absl::NotFoundError(absl::StrCat("the model '", std::string(asked.substr(0, kMaxShownKeyBytes)),
                                          "' is not served here, but '", model.info.name, "'", others));
}

absl::StatusOr<std::vector<int32_t>> EncodeText(const ServedModel& model, std::string_view text,
                                                bool parse_special) {
  MOEPOOL_ASSIGN_OR_RETURN(std::vector<int32_t> ids, model.tokenizer->Encode(text, parse_special));
  const TokenizerSpec& spec = model.info.tokenizer;
  if (spec.add_bos && spec.bos_id >= 0 && (ids.empty() || ids.front() != spec.bos_id)) {
    ids.insert(ids.begin(), spec.bos_id);
  }
  return ids;
}

absl::StatusOr<std::string> DecodeIds(const ServedModel& model, std::span<const int32_t> ids, bool special) {
  Detokenizer detokenizer(model.tokenizer.get(), special);
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= model.info.vocab_size) {
      return InvalidField(absl::StrCat("ids[", i, "]"),
                          absl::StrCat("is ", ids[i], ", not in [0, ", model.info.vocab_size, ")"));
    }
    text += detokenizer.Push(ids[i]);
  }
  text += detokenizer.Finish();
  return text;
}

bool UsesTemplate(const ServedModel& model, const InferRequest& request) {
  if (std::holds_alternative<std::vector<ChatMessage>>(request.input)) return true;
  return std::holds_alternative<std::string>(request.input) && !request.raw && model.chat_template != nullptr;
}

SpecialText SpecialTextOf(const ServedModel& model) {
  return {TokenText(model, model.info.tokenizer.bos_id), TokenText(model, model.info.tokenizer.eos_id)};
}

}  // namespace moepool
