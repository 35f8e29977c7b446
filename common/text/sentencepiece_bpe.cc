// MakeSentencePieceBpe. The reference looks up what two neighbours spell each time they meet. Here the pairs
// that spell a piece are found once, so that merging compares ids: a symbol is a piece, or a character that
// some piece holds without being one itself.
#include <algorithm>
#include <functional>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "common/base/utf8.h"
#include "common/text/bpe_merger.h"
#include "common/text/escaped_space.h"
#include "common/text/sentencepiece_model.h"
#include "common/text/token_trie.h"

namespace moepool {
namespace {

constexpr int32_t kUnknown = std::numeric_limits<int32_t>::max();  // no merge names it

class SentencePieceBpe final : public SentencePieceModel {
 public:
  explicit SentencePieceBpe(const SentencePieces& vocabulary) : vocab_size_(vocabulary.vocab_size) {
    absl::flat_hash_map<std::string_view, int32_t> symbols;
    std::vector<float> scores;  // from the highest down, each once
    for (const auto& [spelling, id, score] : vocabulary.pieces) {
      symbols.emplace(spelling, id);
      scores.push_back(score);
    }
    std::sort(scores.begin(), scores.end(), std::greater<>());
    scores.erase(std::unique(scores.begin(), scores.end()), scores.end());

    int32_t next_symbol = vocab_size_;
    for (const auto& piece : vocabulary.pieces) {
      for (std::string_view rest = piece.spelling; !rest.empty();) {
        const Utf8Step step = NextUtf8(rest);
        const auto [it, is_new] = symbols.try_emplace(rest.substr(0, step.bytes), next_symbol);
        if (is_new) ++next_symbol;
        characters_.emplace(step.code_point, it->second);
        rest.remove_prefix(step.bytes);
      }
    }
    for (const auto& [spelling, id, score] : vocabulary.pieces) {
      const auto rank = static_cast<uint32_t>(
          std::lower_bound(scores.begin(), scores.end(), score, std::greater<>()) - scores.begin());
      for (size_t cut = NextUtf8(spelling).bytes; cut < spelling.size();
           cut += NextUtf8(spelling.substr(cut)).bytes) {
        const auto left = symbols.find(spelling.substr(0, cut));
        const auto right = symbols.find(spelling.substr(cut));
        if (left == symbols.end() || right == symbols.end()) continue;
        merger_.Add(left->second, right->second, rank, id);
      }
    }
    for (const auto& piece : vocabulary.user_defined) user_defined_.Add(piece.spelling, piece.id);
    for (const auto* list : {&vocabulary.pieces, &vocabulary.user_defined}) {
      for (const auto& piece : *list) crosses_words_ = crosses_words_ || CrossesWords(piece.spelling);
    }
  }

  std::vector<Segment> Cut(std::string_view text) const override {
    std::vector<Segment> segments;
    Work work;
    for (size_t pos = 0; pos < text.size();) {
      const size_t end = crosses_words_ ? text.size() : WordEnd(text, pos);
      CutWord(text, pos, end, &work, &segments);
      pos = end;
    }
    return segments;
  }

 private:
  struct Work {
    BpeMerger::Scratch scratch;
    std::vector<uint32_t> begins;  // by symbol
  };

  // Where the first space after something else stands: no piece leads across. Short words stay in the caches.
  static size_t WordEnd(std::string_view text, size_t begin) {
    while (text.substr(begin).starts_with(kEscapedSpace)) begin += kEscapedSpace.size();
    return std::min(text.find(kEscapedSpace, begin), text.size());
  }

  void CutWord(std::string_view text, size_t begin, size_t end, Work* work,
               std::vector<Segment>* segments) const {
    auto& [scratch, begins] = *work;
    scratch.symbols.clear();
    begins.clear();
    for (size_t pos = begin; pos < end;) {
      begins.push_back(static_cast<uint32_t>(pos));
      size_t matched_end = pos;
      int32_t matched_id = -1;
      user_defined_.VisitAt(text.substr(0, end), pos, [&](size_t piece_end, int32_t id) {
        matched_end = piece_end;
        matched_id = id;
      });
      if (matched_id >= 0) {
        scratch.Append(matched_id);
        pos = matched_end;
        continue;
      }
      const Utf8Step step = NextUtf8(text.substr(pos));
      const bool is_character = step.kind == Utf8Kind::kCharacter;
      scratch.Append(is_character ? Symbol(step.code_point) : kUnknown);
      pos += is_character ? step.bytes : 1;
    }
    merger_.Merge(&scratch);
    for (int32_t i = 0; i >= 0;) {
      const BpeMerger::Scratch::Symbol& symbol = scratch.symbols[i];
      const size_t segment_end = symbol.next < 0 ? end : begins[symbol.next];
      segments->push_back({symbol.id < vocab_size_ ? symbol.id : -1, begins[i], segment_end});
      i = symbol.next;
    }
  }

  // Whether a space follows something else within the spelling.
  static bool CrossesWords(std::string_view spelling) {
    const size_t end = WordEnd(spelling, 0);
    return end < spelling.size();
  }

  int32_t Symbol(char32_t code_point) const {
    const auto it = characters_.find(code_point);
    return it == characters_.end() ? kUnknown : it->second;
  }

  int32_t vocab_size_;
  absl::flat_hash_map<char32_t, int32_t> characters_;
  BpeMerger merger_;
  TokenTrie user_defined_;
  bool crosses_words_ = false;
};

}  // namespace

std::unique_ptr<SentencePieceModel> MakeSentencePieceBpe(const SentencePieces& vocabulary) {
  return std::make_unique<SentencePieceBpe>(vocabulary);
}

}  // namespace moepool
