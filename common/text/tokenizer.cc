#include "common/text/tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/utf8.h"
#include "common/text/bpe_tokenizer.h"
#include "common/text/sentencepiece_tokenizer.h"

namespace moepool {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(TokenizerSpec spec) {
  if (spec.model == "gpt2") return BpeTokenizer::Make(std::move(spec));
  if (spec.model == "llama" || spec.model == "t5") return SentencePieceTokenizer::Make(std::move(spec));
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer model \"", spec.model, "\" is not known; known are: gpt2, llama, t5"));
}

std::string Detokenizer::Push(int32_t id, bool special) {
  const std::string bytes = tokenizer_->Bytes(id, special);
  if (!bytes.empty()) {
    pending_.append(bytes, drops_space_ && bytes[0] == ' ' ? 1 : 0);
    drops_space_ = false;
  }
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
