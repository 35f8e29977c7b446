// Cuts normalised text into the pieces of a SentencePiece vocabulary. The two kinds of models share all but
// this.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace moepool {

// Immutable and thread-safe.
class SentencePieceModel {
 public:
  struct Segment {
    int32_t id;  // -1: one character, or one byte that is not UTF-8, which no piece spells
    size_t begin;
    size_t end;
  };

  virtual ~SentencePieceModel() = default;
  // Together the segments are all of `text`, which is not empty and under 2 GiB.
  virtual std::vector<Segment> Cut(std::string_view text) const = 0;
};

// What a model is made from. Spellings are valid UTF-8, not empty, and no two are alike.
struct SentencePieces {
  struct Piece {
    std::string_view spelling;  // outlives the model's making, not more
    int32_t id;
    float score;  // finite
  };
  std::vector<Piece> pieces;
  // User-defined tokens, whose score does not count. They are matched in the text before it is normalised;
  // some appear only then.
  std::vector<Piece> user_defined;
  int32_t vocab_size;
};

// Merges neighbours for as long as what they spell together is a piece, the piece of the highest score first,
// the leftmost of equal ones. O(n log n).
std::unique_ptr<SentencePieceModel> MakeSentencePieceBpe(const SentencePieces& vocabulary);

// Finds the segments whose scores (log-probabilities) add up to the most, by Viterbi's algorithm. O(n ·
// longest piece).
std::unique_ptr<SentencePieceModel> MakeUnigram(const SentencePieces& vocabulary);

}  // namespace moepool
