#include "common/constrain/matcher.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/constrain/grammar.h"

namespace moepool {
namespace {

// Of what one grammar remembers.
constexpr size_t kMaxConfigurationBytes = 24 << 20;
constexpr size_t kMaxMaskBytes = 16 << 20;
// A step of no more work counts as nothing beside the node of the tree that it is taken at.
constexpr uint32_t kCheapStepWork = 16;
constexpr size_t kMaxGrammarSlices = 4;
constexpr uint32_t kMinSliceCharacters = 20;

uint32_t CountCharacters(const CodePointSet& set) {
  uint32_t count = 0;
  for (const CodePointRange& range : set.ranges()) count += range.last - range.first + 1;
  return count;
}

absl::Status TooAmbiguous(std::string_view what, uint64_t limit) {
  return absl::InvalidArgumentError(
      StrCat("the grammar is too ambiguous here: to find out which tokens may come takes more than ", limit,
             " steps for one ", what));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const CompiledGrammar>> CompiledGrammar::Make(
    std::string_view text, std::shared_ptr<const Vocabulary> vocabulary) {
  MOEPOOL_ASSIGN_OR_RETURN(const Grammar grammar, ParseGrammar(text));
  return Make(grammar, std::move(vocabulary));
}

absl::StatusOr<std::shared_ptr<const CompiledGrammar>> CompiledGrammar::Make(
    const Grammar& grammar, std::shared_ptr<const Vocabulary> vocabulary) {
  MOEPOOL_ASSIGN_OR_RETURN(Automaton automaton,
                           BuildAutomaton(grammar, vocabulary->writable(), vocabulary->control_tokens()));
  return std::shared_ptr<const CompiledGrammar>(
      new CompiledGrammar(std::move(automaton), std::move(vocabulary)));
}

CompiledGrammar::CompiledGrammar(Automaton automaton, std::shared_ptr<const Vocabulary> vocabulary)
    : automaton_(std::move(automaton)),
      vocabulary_(std::move(vocabulary)),
      memory_(std::make_shared<Memory>(&automaton_)),
      path_(static_cast<size_t>(vocabulary_->tree().max_depth()) + 1) {
  fixed_bytes_ = automaton_.nodes.capacity() * sizeof(AutomatonNode) +
                 automaton_.edges.capacity() * sizeof(AutomatonEdge);
  // The largest sets alone: they have the most tokens, and each slice takes memory.
  slices_.resize(automaton_.sets.size());
  std::vector<std::pair<uint32_t, size_t>> by_size;
  for (size_t i = 0; i < slices_.size(); ++i) {
    const uint32_t count = CountCharacters(automaton_.sets[i]);
    if (count >= kMinSliceCharacters) by_size.emplace_back(count, i);
  }
  std::sort(by_size.begin(), by_size.end(), std::greater<>());
  std::vector<const CodePointSet*> made;
  for (const auto& [count, i] : by_size) {
    const CodePointSet& one = automaton_.sets[i];
    const auto same = [&one](const CodePointSet* set) { return *set == one; };
    const bool is_new = std::none_of(made.begin(), made.end(), same);
    if (is_new && made.size() == kMaxGrammarSlices) continue;
    slices_[i] = vocabulary_->Slice(one);
    if (!is_new) continue;
    made.push_back(&one);
    if (slices_[i] != nullptr) fixed_bytes_ += slices_[i]->bytes;
  }
}

size_t CompiledGrammar::bytes() const {
  MutexLock lock(&mutex_);
  return fixed_bytes_ + memory_->configurations.bytes() + memory_->mask_bytes;
}

CompiledGrammar::Position CompiledGrammar::Start() const {
  MutexLock lock(&mutex_);
  return {memory_, memory_->configurations.start()};
}

void CompiledGrammar::Refresh(Position* position) const {
  if (memory_->configurations.bytes() > kMaxConfigurationBytes || memory_->mask_bytes > kMaxMaskBytes) {
    memory_ = std::make_shared<Memory>(&automaton_);
  }
  if (position->memory == memory_) return;
  position->configuration =
      memory_->configurations.Import(position->memory->configurations, position->configuration);
  position->memory = memory_;
}

bool CompiledGrammar::Accept(std::string_view bytes, Position* position) const {
  MutexLock lock(&mutex_);
  Refresh(position);
  uint32_t configuration = position->configuration;
  for (const char byte : bytes) {
    configuration = memory_->configurations.Step(configuration, static_cast<uint8_t>(byte)).configuration;
    if (configuration == Configurations::kDead || configuration == Configurations::kTooMany) return false;
  }
  position->configuration = configuration;
  return true;
}

bool CompiledGrammar::CanEnd(const Position& position) const {
  MutexLock lock(&mutex_);
  return position.memory->configurations.can_end(position.configuration);
}

bool CompiledGrammar::CanGoOn(const Position& position) const {
  MutexLock lock(&mutex_);
  return position.memory->configurations.can_go_on(position.configuration);
}

absl::StatusOr<std::shared_ptr<const IdBits>> CompiledGrammar::Mask(Position* position) const {
  MutexLock lock(&mutex_);
  Refresh(position);
  const auto known = memory_->masks.find(position->configuration);
  if (known != memory_->masks.end()) return known->second;
  MOEPOOL_ASSIGN_OR_RETURN(IdBits bits, ComputeMask(position->configuration));
  auto mask = std::make_shared<const IdBits>(std::move(bits));
  if (position->memory == memory_) {  // else it was renewed on the way
    memory_->masks.emplace(position->configuration, mask);
    memory_->mask_bytes += mask->size() * sizeof(uint64_t);
  }
  return mask;
}

void CompiledGrammar::Renew(size_t depth) const {
  const std::shared_ptr<Memory> old = std::exchange(memory_, std::make_shared<Memory>(&automaton_));
  for (size_t i = 0; i < depth; ++i) {
    path_[i] = memory_->configurations.Import(old->configurations, path_[i]);
  }
}

// Tokens of a set that may be repeated here are allowed as a whole, as many characters as may still come; the
// others are walked through byte by byte.
absl::StatusOr<IdBits> CompiledGrammar::ComputeMask(uint32_t start) const {
  if (start == Configurations::kTooMany) return TooAmbiguous("byte", kMaxStepWork);
  const Configurations& configurations = memory_->configurations;
  IdBits bits(vocabulary_->words());
  const TokenSlice* slice = nullptr;  // the largest
  int64_t room = 0;                   // how many of its characters may come
  for (const Place& place : configurations.places(start)) {
    const AutomatonNode& node = automaton_.nodes[place.node];
    if (node.set == kNoSet || slices_[node.set] == nullptr) continue;
    const TokenSlice* other = slices_[node.set].get();
    const int64_t other_room = node.max < 0 ? other->longest : node.max - place.counter;
    const IdBits& allowed = other->UpTo(other_room);
    for (size_t w = 0; w < bits.size(); ++w) bits[w] |= allowed[w];
    if (slice != nullptr && other->tokens <= slice->tokens && (other != slice || other_room <= room))
      continue;
    slice = other;
    room = other_room;
  }
  const bool whole_slice = slice != nullptr && room >= slice->longest;
  const ByteTree& tree = whole_slice ? *slice->others : vocabulary_->tree();
  // Below the longest count that UpTo tells apart.
  const int64_t skipped =
      slice != nullptr && !whole_slice ? std::min<int64_t>(room, TokenSlice::kMaxCount) : 0;
  path_[0] = start;
  const uint64_t max_work = MaxMaskWork(*vocabulary_);
  uint64_t work = 0;
  absl::flat_hash_set<uint64_t> counted;  // steps that are not cheap
  for (uint32_t n = 0; n < tree.size();) {
    const ByteTree::Node& node = tree.node(n);
    if (skipped > 0 && slice->longest_below[n] <= skipped) {
      n = node.end;
      continue;
    }
    if (memory_->configurations.bytes() > 2 * kMaxConfigurationBytes) {
      Renew(node.depth);
      counted.clear();  // of other numbers
    }
    const uint32_t here = path_[node.depth - 1u];
    const Configurations::Reached next = memory_->configurations.Step(here, node.byte);
    if (next.configuration == Configurations::kTooMany) return TooAmbiguous("byte", kMaxStepWork);
    ++work;
    if (next.work > kCheapStepWork &&
        counted.insert(uint64_t{here} << 8 | automaton_.byte_class[node.byte]).second) {
      work += next.work;
    }
    if (work > max_work) return TooAmbiguous("mask", max_work);
    if (next.configuration == Configurations::kDead) {
      n = node.end;
      continue;
    }
    path_[node.depth] = next.configuration;
    for (const int32_t id : tree.ids(n)) SetBit(&bits, id);
    ++n;
  }
  return bits;
}

bool Matcher::Accept(int32_t id) {
  const Vocabulary& vocabulary = grammar_->vocabulary();
  if (id < 0 || id >= vocabulary.size() || vocabulary.bytes(id).empty()) return false;
  return Accept(vocabulary.bytes(id));
}

}  // namespace moepool
