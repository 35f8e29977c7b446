// The model that a gateway serves: what the router said of it, and what text needs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"
#include "common/trunk/trunk.h"
#include "gateway/chat_syntax.h"
#include "gateway/dry_breakers.h"
#include "gateway/infer_request.h"

namespace moepool {

// Immutable, but for the cache, which is thread-safe.
struct ServedModel {
  ModelInfo info;                    // info.name is what answers call the model
  std::vector<std::string> aliases;  // further names that requests may use
  std::unique_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<const ChatTemplate> chat_template;  // null: the model has none
  ChatSyntax syntax;                                  // of the template
  std::vector<int32_t> marker_ids;                    // control tokens that mark thoughts and calls
  std::vector<int32_t> stop_ids;                      // every id that ends generation
  std::unique_ptr<DryBreakerCache> dry_breakers;      // of the tokenizer
};

using ModelFactory = std::function<absl::StatusOr<std::shared_ptr<const ServedModel>>(ModelInfo)>;

// Builds the model's own tokenizer and template. A template that cannot be parsed is an error.
// It is called by the first of `names` and answers to all of them; where there is none, by the name in the
// file.
absl::StatusOr<std::shared_ptr<const ServedModel>> LoadServedModel(ModelInfo info,
                                                                   std::vector<std::string> names = {});

// OK where `asked` is one of the model's names; NotFound gives `asked` and the names served.
absl::Status CheckServedName(const ServedModel& model, std::string_view asked);

// Completes a model of which tokenizer and template stand: collects the ids that end generation and those
// that mark, tries the template, makes the cache.
// InvalidArgument where the tokenizer and the model disagree on the vocabulary's size.
absl::StatusOr<std::shared_ptr<const ServedModel>> FinishServedModel(ServedModel model);

// Ids of a text, with BOS in front where the model wants it and the text does not begin with it.
absl::StatusOr<std::vector<int32_t>> EncodeText(const ServedModel& model, std::string_view text,
                                                bool parse_special);

// Text of ids, control tokens as text where `special`; U+FFFD for what is no UTF-8. InvalidField: an id out
// of the vocabulary.
absl::StatusOr<std::string> DecodeIds(const ServedModel& model, std::span<const int32_t> ids, bool special);

// Whether the prompt goes through the chat template, so that what is generated begins a text of its own
// rather than going on with the prompt's.
bool UsesTemplate(const ServedModel& model, const InferRequest& request);

SpecialText SpecialTextOf(const ServedModel& model);

}  // namespace moepool
