#include "common/text/bpe_tokenizer.h"

#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/utf8.h"
#include "common/text/byte_alphabet.h"
#include "common/text/nfc.h"
#include "common/text/tokenizer_checks.h"

namespace moepool {
namespace {

absl::Status MergeError(size_t rank, const std::string& merge, const std::string& cause) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer: merge ", rank, " \"", merge, "\" ", cause));
}

}  // namespace

BpeTokenizer::BpeTokenizer(TokenizerSpec spec, std::unique_ptr<PreTokenizer> pre_tokenizer)
    : VocabularyTokenizer(std::move(spec)), pre_tokenizer_(std::move(pre_tokenizer)) {
  for (int32_t id = 0; id < VocabSize(); ++id) {
    if (!IsPiece(id)) continue;
    // A spelling that leaves the byte alphabet stands for itself; no merge of bytes leads to it.
    const std::string& spelling = Spec().tokens[id];
    std::optional<std::string> decoded = BytesFromSpelling(spelling);
    const bool is_word = decoded.has_value() && !decoded->empty();
    SetBytes(id, decoded.has_value() ? *std::move(decoded) : spelling);
    if (is_word) words_.emplace(bytes()[id], id);
  }
}

absl::StatusOr<std::unique_ptr<Tokenizer>> BpeTokenizer::Make(TokenizerSpec spec) {
  MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<PreTokenizer> pre_tokenizer, PreTokenizer::Make(spec.pre));
  MOEPOOL_RETURN_IF_ERROR(CheckTokenizerSpec(spec));
  std::unique_ptr<BpeTokenizer> tokenizer(new BpeTokenizer(std::move(spec), std::move(pre_tokenizer)));
  MOEPOOL_RETURN_IF_ERROR(tokenizer->LoadMerges());
  return tokenizer;
}

absl::Status BpeTokenizer::LoadMerges() {
  const absl::flat_hash_map<std::string_view, int32_t> ids = IdsBySpelling(Spec());
  const auto find = [&](std::string_view spelling) {
    const auto it = ids.find(spelling);
    return it == ids.end() ? -1 : it->second;
  };
  std::array<int32_t, 256> byte_ids;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    byte_ids[byte] = find(SpellingFromBytes({&c, 1}));
  }
  merger_ = std::make_unique<BpeMerger>(byte_ids);
  if (Spec().merges.size() > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer: ", Spec().merges.size(), " merges are too many"));
  }
  for (size_t rank = 0; rank < Spec().merges.size(); ++rank) {
    const std::string& merge = Spec().merges[rank];
    const size_t space = merge.find(' ');
    if (space == std::string::npos || merge.find(' ', space + 1) != std::string::npos) {
      return MergeError(rank, merge, "is not two tokens with one space between them");
    }
    const std::string left = merge.substr(0, space);
    const std::string right = merge.substr(space + 1);
    const std::string joined = left + right;
    for (const std::string& part : {left, right, joined}) {
      if (find(part) < 0)
        return MergeError(rank, merge, absl::StrCat("needs \"", part, "\", which is not a token"));
    }
    merger_->Add(find(left), find(right), static_cast<uint32_t>(rank), find(joined));
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::EncodePlain(std::string_view text, std::vector<int32_t>* ids) const {
  BpeMerger::Scratch scratch;
  while (!text.empty()) {
    const size_t valid = ValidUtf8Prefix(text);
    if (valid > 0) {
      MOEPOOL_RETURN_IF_ERROR(EncodeValid(text.substr(0, valid), &scratch, ids));
      text.remove_prefix(valid);
    } else {
      merger_->Encode(text.substr(0, 1), &scratch, ids);
      text.remove_prefix(1);
    }
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::EncodeValid(std::string_view text, BpeMerger::Scratch* scratch,
                                       std::vector<int32_t>* ids) const {
  std::string composed;
  if (pre_tokenizer_->composes()) {
    MOEPOOL_ASSIGN_OR_RETURN(composed, ToNfc(text));
    text = composed;
  }
  std::vector<std::string_view> pieces;
  MOEPOOL_RETURN_IF_ERROR(pre_tokenizer_->Split(text, &pieces));
  for (const std::string_view piece : pieces) {
    if (pre_tokenizer_->takes_whole_words()) {
      if (const auto it = words_.find(piece); it != words_.end()) {
        ids->push_back(it->second);
        continue;
      }
    }
    merger_->Encode(piece, scratch, ids);
  }
  return absl::OkStatus();
}

}  // namespace moepool
