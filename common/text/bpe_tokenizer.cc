#include "common/text/bpe_tokenizer.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/utf8.h"
#include "common/text/byte_alphabet.h"
#include "common/text/nfc.h"
#include "common/text/tokenizer_checks.h"

namespace moepool {
namespace {

constexpr size_t kMaxTextBytes = std::numeric_limits<int32_t>::max();

// Control tokens that end a turn or a text in the families served; files name at most two of them as EOS and
// EOT.
constexpr std::string_view kEndNames[] = {"<|im_end|>", "<|endoftext|>", "<|eot_id|>",      "<|eom_id|>",
                                          "<|end|>",    "</s>",          "<|end_of_text|>", "<end_of_turn>"};

bool IsControl(TokenType type) { return type == TokenType::kControl || type == TokenType::kUnknown; }

absl::Status MergeError(size_t rank, const std::string& merge, const std::string& cause) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer: merge ", rank, " \"", merge, "\" ", cause));
}

}  // namespace

BpeTokenizer::BpeTokenizer(TokenizerSpec spec, std::unique_ptr<PreTokenizer> pre_tokenizer)
    : spec_(std::move(spec)), pre_tokenizer_(std::move(pre_tokenizer)) {}

absl::StatusOr<std::unique_ptr<Tokenizer>> BpeTokenizer::Make(TokenizerSpec spec) {
  MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<PreTokenizer> pre_tokenizer, PreTokenizer::Make(spec.pre));
  MOEPOOL_RETURN_IF_ERROR(CheckTokenizerSpec(spec));
  std::unique_ptr<BpeTokenizer> tokenizer(new BpeTokenizer(std::move(spec), std::move(pre_tokenizer)));
  tokenizer->LoadTokens();
  MOEPOOL_RETURN_IF_ERROR(tokenizer->LoadMerges());
  return tokenizer;
}

void BpeTokenizer::LoadTokens() {
  bytes_.resize(spec_.tokens.size());
  ends_generation_.resize(spec_.tokens.size());
  for (int32_t id = 0; id < VocabSize(); ++id) {
    const std::string& spelling = spec_.tokens[id];
    const TokenType type = Type(id);
    ends_generation_[id] = id == spec_.eos_id || id == spec_.eot_id;
    if (IsControl(type)) {
      for (const std::string_view name : kEndNames) {
        if (spelling == name) ends_generation_[id] = true;
      }
    }
    if (type == TokenType::kUnused) continue;
    if (IsControl(type) || type == TokenType::kUserDefined) {
      bytes_[id] = spelling;
      if (spelling.empty()) continue;
      special_tokens_.Add(spelling, id);
      if (type == TokenType::kUserDefined) added_tokens_.Add(spelling, id);
      continue;
    }
    // A spelling that leaves the byte alphabet stands for itself; no merge of bytes leads to it.
    const std::optional<std::string> bytes = BytesFromSpelling(spelling);
    bytes_[id] = bytes.value_or(spelling);
    if (bytes.has_value() && !bytes->empty()) words_.emplace(bytes_[id], id);
  }
}

absl::Status BpeTokenizer::LoadMerges() {
  const absl::flat_hash_map<std::string_view, int32_t> ids = IdsBySpelling(spec_);
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
  if (spec_.merges.size() > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer: ", spec_.merges.size(), " merges are too many"));
  }
  for (size_t rank = 0; rank < spec_.merges.size(); ++rank) {
    const std::string& merge = spec_.merges[rank];
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

absl::StatusOr<std::vector<int32_t>> BpeTokenizer::Encode(std::string_view text, bool parse_special) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("text of ", text.size(), " bytes, at most ", kMaxTextBytes));
  }
  const TokenTrie& tokens = parse_special ? special_tokens_ : added_tokens_;
  Work work;
  for (size_t pos = 0; pos < text.size();) {
    const TokenTrie::Match match = tokens.Find(text, pos);
    MOEPOOL_RETURN_IF_ERROR(EncodePlain(text.substr(pos, match.begin - pos), &work));
    if (match.id >= 0) work.ids.push_back(match.id);
    pos = match.end;
  }
  return std::move(work.ids);
}

absl::Status BpeTokenizer::EncodePlain(std::string_view text, Work* work) const {
  while (!text.empty()) {
    const size_t valid = ValidUtf8Prefix(text);
    if (valid > 0) {
      MOEPOOL_RETURN_IF_ERROR(EncodeValid(text.substr(0, valid), work));
      text.remove_prefix(valid);
    } else {
      merger_->Encode(text.substr(0, 1), &work->scratch, &work->ids);
      text.remove_prefix(1);
    }
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::EncodeValid(std::string_view text, Work* work) const {
  std::string composed;
  if (pre_tokenizer_->composes()) {
    MOEPOOL_ASSIGN_OR_RETURN(composed, ToNfc(text));
    text = composed;
  }
  work->pieces.clear();
  MOEPOOL_RETURN_IF_ERROR(pre_tokenizer_->Split(text, &work->pieces));
  for (const std::string_view piece : work->pieces) {
    if (pre_tokenizer_->takes_whole_words()) {
      if (const auto it = words_.find(piece); it != words_.end()) {
        work->ids.push_back(it->second);
        continue;
      }
    }
    merger_->Encode(piece, &work->scratch, &work->ids);
  }
  return absl::OkStatus();
}

std::string BpeTokenizer::Bytes(int32_t id, bool special) const {
  if (id < 0 || id >= VocabSize() || (!special && IsControl(Type(id)))) return "";
  return bytes_[id];
}

bool BpeTokenizer::EndsGeneration(int32_t id) const {
  return id >= 0 && id < VocabSize() && ends_generation_[id];
}

}  // namespace moepool
