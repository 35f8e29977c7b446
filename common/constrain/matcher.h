// Which ids may come next, and what has come: a grammar run over a vocabulary.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/constrain/automaton.h"
#include "common/constrain/configurations.h"
#include "common/constrain/vocabulary.h"

namespace moepool {

// What finding out one mask may take: one for each node of the vocabulary's tree that is looked at, and the
// work of the steps that differ, counted whether they are remembered or not. So what is given up does not
// depend on what was asked before.
inline constexpr uint64_t kLeastMaskWork = 1 << 19;
inline uint64_t MaxMaskWork(const Vocabulary& vocabulary) {
  return kLeastMaskWork + vocabulary.tree().size();
}

// A grammar made ready for a vocabulary. Remembers what it found out, in bounded memory; thread-safe.
class CompiledGrammar {
 public:
  // InvalidArgument where the grammar is malformed or left-recursive, needs characters that the vocabulary
  // cannot write, or exceeds a limit; the message says which.
  static absl::StatusOr<std::shared_ptr<const CompiledGrammar>> Make(
      std::string_view grammar, std::shared_ptr<const Vocabulary> vocabulary);
  static absl::StatusOr<std::shared_ptr<const CompiledGrammar>> Make(
      const Grammar& grammar, std::shared_ptr<const Vocabulary> vocabulary);

  const Vocabulary& vocabulary() const { return *vocabulary_; }
  // What it takes, caches included.
  size_t bytes() const EXCLUDES(mutex_);

 private:
  friend class Matcher;

  // All that is remembered. Dropped as a whole when it grows too large; matchers that still refer to the old
  // one keep it until they are used again.
  struct Memory {
    explicit Memory(const Automaton* automaton) : configurations(automaton) {}
    Configurations configurations;
    absl::flat_hash_map<uint32_t, std::shared_ptr<const IdBits>> masks;
    size_t mask_bytes = 0;
  };
  struct Position {
    std::shared_ptr<Memory> memory;
    uint32_t configuration = Configurations::kDead;
  };

  CompiledGrammar(Automaton automaton, std::shared_ptr<const Vocabulary> vocabulary);
  Position Start() const EXCLUDES(mutex_);
  // Moves `position` to the memory in force.
  void Refresh(Position* position) const REQUIRES(mutex_);
  bool Accept(std::string_view bytes, Position* position) const EXCLUDES(mutex_);
  bool CanEnd(const Position& position) const EXCLUDES(mutex_);
  bool CanGoOn(const Position& position) const EXCLUDES(mutex_);
  absl::StatusOr<std::shared_ptr<const IdBits>> Mask(Position* position) const EXCLUDES(mutex_);
  absl::StatusOr<IdBits> ComputeMask(uint32_t configuration) const REQUIRES(mutex_);
  // Begins a new memory, and takes the first `depth` configurations of path_ along.
  void Renew(size_t depth) const REQUIRES(mutex_);

  const Automaton automaton_;
  const std::shared_ptr<const Vocabulary> vocabulary_;
  std::vector<std::shared_ptr<const TokenSlice>> slices_;  // by set of the automaton; null: none
  size_t fixed_bytes_ = 0;
  mutable Mutex mutex_;
  mutable std::shared_ptr<Memory> memory_ GUARDED_BY(mutex_);
  mutable std::vector<uint32_t> path_ GUARDED_BY(mutex_);  // of a walk: configurations by depth
};

// A text under way: a value, cheap to copy. Made anew and given the same ids it is in the same state.
class Matcher {
 public:
  explicit Matcher(std::shared_ptr<const CompiledGrammar> grammar)
      : grammar_(std::move(grammar)), position_(grammar_->Start()) {}

  // False, and nothing is changed, where the text cannot go on with `bytes`, or where that takes too much to
  // find out.
  bool Accept(std::string_view bytes) { return grammar_->Accept(bytes, &position_); }
  // The same of a token; those that write nothing are not accepted.
  bool Accept(int32_t id);
  // One bit for each id of the vocabulary: whether the text can go on with it. Never null. InvalidArgument
  // where the grammar is so ambiguous here that finding out exceeds kMaxStepWork or MaxMaskWork.
  absl::StatusOr<std::shared_ptr<const IdBits>> Mask() { return grammar_->Mask(&position_); }
  // Whether the text so far is a whole one, and whether anything may still follow it.
  bool CanEnd() const { return grammar_->CanEnd(position_); }
  bool CanGoOn() const { return grammar_->CanGoOn(position_); }

 private:
  std::shared_ptr<const CompiledGrammar> grammar_;
  CompiledGrammar::Position position_;
};

}  // namespace moepool
