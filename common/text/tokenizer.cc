#include "common/text/tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/utf8.h"
#include "common/text/bpe_tokenizer.h"

namespace moepool {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(TokenizerSpec spec) {
  if (spec.model == "gpt2") return BpeTokenizer::Make(std::move(spec));
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer model \"", spec.model, "\" is not known; known are: gpt2"));
}

std::string Detokenizer::Push(int32_t id) {
  pending_ += tokenizer_->Bytes(id, special_);
  std::string text;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Step step = NextUtf8(rest);
    if (step.kind == Utf8Kind::kIncomplete) break;
    text += step.kind == Utf8Kind::kCharacter ? rest.substr(0, step.bytes) : std::string_view(kReplacement);
    rest.remove_prefix(step.bytes);
  }
  pending_ = std::string(rest);
  return text;
}

std::string Detokenizer::Finish() {
  if (pending_.empty()) return "";
  pending_.clear();
  return kReplacement;
}

}  // namespace moepool
