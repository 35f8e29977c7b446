#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "gateway/served_model.h"

namespace moepool {

absl::StatusOr<std::shared_ptr<const ServedModel>> LoadServedModel(ModelInfo info,
                                                                   std::vector<std::string> names) {
  ServedModel model;
  model.info = std::move(info);
  if (!names.empty()) {
    model.info.name = std::move(names.front());
    names.erase(names.begin());
    model.aliases = std::move(names);
  }
  MOEPOOL_ASSIGN_OR_RETURN(model.tokenizer, MakeTokenizer(model.info.tokenizer));
  if (!model.info.tokenizer.chat_template.empty()) {
    MOEPOOL_ASSIGN_OR_RETURN(model.chat_template, ChatTemplate::Parse(model.info.tokenizer.chat_template));
  }
  return FinishServedModel(std::move(model));
}

}  // namespace moepool
