// MakeUnigram. See Kudo, "Subword Regularization" (2018), for the model.
#include <algorithm>
#include <cmath>
#include <limits>

#include "common/base/utf8.h"
#include "common/text/sentencepiece_model.h"
#include "common/text/token_trie.h"

namespace moepool {
namespace {

// A character without a piece costs as much more than the least likely piece, as in the reference.
constexpr float kUnknownPenalty = 10.0f;
// For each byte but the first: over any sum of log-probabilities, and the more the longer.
constexpr double kUserDefinedBonus = 0.1;
// From here on sums start again at zero, so that long texts do not round likely pieces away.
constexpr float kMaxSum = 100'000.0f;

class Unigram final : public SentencePieceModel {
 public:
  explicit Unigram(const SentencePieces& vocabulary) : scores_(vocabulary.vocab_size) {
    float lowest = std::numeric_limits<float>::max();
    for (const auto& [spelling, id, score] : vocabulary.pieces) {
      trie_.Add(spelling, id);
      scores_[id] = score;
      lowest = std::min(lowest, score);
    }
    for (const auto& [spelling, id, score] : vocabulary.user_defined) {
      trie_.Add(spelling, id);
      scores_[id] = static_cast<float>(kUserDefinedBonus * static_cast<double>(spelling.size() - 1));
    }
    unknown_score_ = lowest - kUnknownPenalty;
  }

  std::vector<Segment> Cut(std::string_view text) const override {
    // Floats, as in the reference: where two ways are worth the same, rounding decides, and is to decide
    // alike.
    struct Best {
      float score = 0;
      int32_t id = -1;
      uint32_t begin = kNone;
    };
    std::vector<Best> best(text.size() + 1);  // by where a segment ends
    size_t reached = 0;
    const auto offer = [&](size_t begin, size_t end, int32_t id, float score) {
      reached = std::max(reached, end);
      const float total = score + best[begin].score;
      if (best[end].begin != kNone && !(total > best[end].score)) return;
      best[end] = {total, id, static_cast<uint32_t>(begin)};
    };
    for (size_t begin = 0; begin < text.size();) {
      if (const float sum = best[begin].score; std::abs(sum) > kMaxSum) {
        for (size_t end = begin; end <= reached; ++end) best[end].score -= sum;
      }
      const Utf8Step step = NextUtf8(text.substr(begin));
      const size_t character_end = begin + (step.kind == Utf8Kind::kCharacter ? step.bytes : 1);
      bool has_character = false;
      trie_.VisitAt(text, begin, [&](size_t end, int32_t id) {
        has_character = has_character || end == character_end;
        offer(begin, end, id, scores_[id]);
      });
      if (!has_character) offer(begin, character_end, -1, unknown_score_);
      begin = character_end;
    }
    std::vector<Segment> segments;
    for (size_t end = text.size(); end > 0; end = best[end].begin) {
      segments.push_back({best[end].id, best[end].begin, end});
    }
    std::reverse(segments.begin(), segments.end());
    return segments;
  }

 private:
  static constexpr uint32_t kNone = 0xFFFFFFFF;

  std::vector<float> scores_;  // by id
  TokenTrie trie_;
  float unknown_score_;
};

}  // namespace

std::unique_ptr<SentencePieceModel> MakeUnigram(const SentencePieces& vocabulary) {
  return std::make_unique<Unigram>(vocabulary);
}

}  // namespace moepool
