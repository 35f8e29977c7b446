// Where a text stands in a grammar: all places that it may be at, each with the stack of rules that it would
// return to. Stacks share what they have in common (a graph), and places that differ in their stacks alone
// are one place with the stacks united, so that ambiguity does not multiply them. Equal configurations have
// one number, so that what is found out about one is remembered.
#pragma once

#include <compare>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "common/constrain/automaton.h"

namespace moepool {

// Of one byte: places come to, calls and returns, whether anything of it is remembered or not. A byte that
// takes more is given up.
inline constexpr uint32_t kMaxStepWork = 1 << 17;

// A node, the counter of the repetition that it belongs to, and what follows its rule: a set of places in the
// callers.
struct Place {
  uint32_t node;
  int32_t counter;
  uint32_t stack;
  auto operator<=>(const Place&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const Place& p) {
    return H::combine(std::move(h), p.node, p.counter, p.stack);
  }
};

// Numbers sets of places; equal sets have one number. Sets are never dropped.
class PlaceSets {
 public:
  // `places` in ascending order. `flag` is part of what is compared.
  uint32_t Intern(std::span<const Place> places, bool flag);
  std::span<const Place> places(uint32_t set) const {
    return std::span(pool_).subspan(sets_[set].begin, sets_[set].size);
  }
  bool flag(uint32_t set) const { return sets_[set].flag; }
  size_t size() const { return sets_.size(); }
  size_t bytes() const { return pool_.capacity() * sizeof(Place) + sets_.capacity() * (sizeof(Set) + 24); }

 private:
  struct Set {
    uint64_t begin;
    uint32_t size;
    bool flag;
    uint32_t next_alike;  // of those with the same hash
  };
  std::vector<Place> pool_;
  std::vector<Set> sets_;
  absl::flat_hash_map<size_t, uint32_t> by_hash_;
};

// One thread at a time.
class Configurations {
 public:
  static constexpr uint32_t kDead = 0;     // nothing may follow, and the text is not a whole one
  static constexpr uint32_t kTooMany = 1;  // given up: what may follow takes more than kMaxStepWork

  struct Reached {
    uint32_t configuration;
    uint32_t work;  // rounded up to a power of two
  };

  // `automaton` outlives this.
  explicit Configurations(const Automaton* automaton);

  uint32_t start() const { return start_; }
  // kDead where `byte` is not allowed. Not from kTooMany.
  Reached Step(uint32_t configuration, uint8_t byte) {
    const uint32_t known = steps_[size_t{configuration} * classes_ + automaton_.byte_class[byte]];
    return Unpack(known != kUnknown ? known : ComputeStep(configuration, byte));
  }
  // Whether the text may end here, and whether anything may follow.
  bool can_end(uint32_t configuration) const { return configurations_.flag(configuration); }
  bool can_go_on(uint32_t configuration) const { return !places(configuration).empty(); }
  std::span<const Place> places(uint32_t configuration) const {
    return configurations_.places(configuration);
  }
  size_t bytes() const;
  // The same configuration of another object over the same automaton.
  uint32_t Import(const Configurations& other, uint32_t configuration);

 private:
  static constexpr uint32_t kUnknown = 0xFFFFFFFF;
  static constexpr uint32_t kRootStack = 0;
  // A step is remembered in 32 bits: where it leads, and above that the logarithm of its work.
  static constexpr int kConfigurationBits = 27;
  static Reached Unpack(uint32_t step) {
    return {step & ((uint32_t{1} << kConfigurationBits) - 1), uint32_t{1} << (step >> kConfigurationBits)};
  }

  struct Call {
    uint32_t rank;
    uint32_t rule;
    Place back;
    auto operator<=>(const Call&) const = default;
  };
  struct Pending {
    Place place;
    bool fresh;  // its rule was called since the last byte
    bool operator==(const Pending&) const = default;
    template <typename H>
    friend H AbslHashValue(H h, const Pending& p) {
      return H::combine(std::move(h), p.place, p.fresh);
    }
  };

  // Stacks to be united: the places of all of them, those alike up to next_place united already.
  struct Union {
    std::vector<uint32_t> stacks;
    std::vector<Place> places;
    std::vector<Place> united;
    size_t next_place = 0;
  };

  uint32_t ComputeStep(uint32_t configuration, uint8_t byte);
  bool Work(size_t amount) {  // false where it is too much
    work_done_ += amount;
    return work_done_ <= kMaxStepWork;
  }
  void Push(uint32_t node, int32_t counter, uint32_t stack, bool fresh);
  void CallRule(uint32_t rule, Place back);
  void Expand(const Pending& pending);
  void Return(uint32_t stack);
  // Follows what is pending without reading a byte, and numbers the result.
  uint32_t Close();
  // Puts places in order, those that differ in their stacks alone as one.
  void UniteAlike(std::vector<Place>* places);
  // Takes stacks in ascending order, at least two.
  uint32_t Unite(std::vector<uint32_t> stacks);
  Union BeginUnion(std::vector<uint32_t> stacks);
  uint32_t NumberConfiguration(std::span<const Place> places, bool can_end);
  int32_t Count(const AutomatonNode& repeat, int32_t counter) const;

  const Automaton& automaton_;
  const uint32_t classes_;
  PlaceSets stacks_;
  PlaceSets configurations_;
  std::vector<uint32_t> steps_;  // [configurations, classes]; kUnknown: not computed
  uint32_t start_ = kDead;

  // Of the closure under way.
  std::vector<Pending> pending_;
  absl::flat_hash_set<Pending> seen_;
  std::vector<Call> calls_;  // a heap, least rank first
  std::vector<Place> places_;
  absl::flat_hash_map<std::vector<uint32_t>, uint32_t> united_;  // by the stacks that were united
  bool can_end_ = false;
  size_t work_done_ = 0;

  std::vector<int32_t> edge_ends_;  // by class, while a configuration is numbered
};

}  // namespace moepool
