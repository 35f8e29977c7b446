#include "common/constrain/configurations.h"

#include <algorithm>
#include <functional>

#include "absl/hash/hash.h"

namespace moepool {
namespace {

using Kind = AutomatonNode::Kind;

// Stands at the bottom of each stack.
constexpr Place kBottom = {kNoNode, 0, 0};
// Places looked at in one closure.
constexpr size_t kMaxSeen = 4 * kMaxPlaces;

void SortAndUnite(std::vector<Place>* places) {
  std::sort(places->begin(), places->end());
  places->erase(std::unique(places->begin(), places->end()), places->end());
}

}  // namespace

uint32_t PlaceSets::Intern(std::span<const Place> places, bool flag) {
  const size_t hash = absl::Hash<std::pair<absl::Span<const Place>, bool>>()(
      {absl::MakeConstSpan(places.data(), places.size()), flag});
  const auto number = static_cast<uint32_t>(sets_.size());
  const auto [it, is_new] = by_hash_.try_emplace(hash, number);
  if (!is_new) {
    for (uint32_t set = it->second; set != number; set = sets_[set].next_alike) {
      const std::span<const Place> known = this->places(set);
      if (sets_[set].flag == flag && std::equal(known.begin(), known.end(), places.begin(), places.end())) {
        return set;
      }
      if (sets_[set].next_alike == kNoNode) {
        sets_[set].next_alike = number;
        break;
      }
    }
  }
  sets_.push_back({pool_.size(), static_cast<uint32_t>(places.size()), flag, kNoNode});
  pool_.insert(pool_.end(), places.begin(), places.end());
  return number;
}

Configurations::Configurations(const Automaton* automaton)
    : automaton_(*automaton), classes_(static_cast<uint32_t>(automaton->class_byte.size())) {
  NumberConfiguration({}, false);  // kDead
  std::fill(steps_.begin(), steps_.end(), kDead);
  stacks_.Intern({&kBottom, 1}, false);
  can_end_ = automaton_.rules[automaton_.root].nullable;
  CallRule(automaton_.root, kBottom);
  start_ = Close();
}

size_t Configurations::bytes() const {
  return stacks_.bytes() + configurations_.bytes() + steps_.capacity() * sizeof(uint32_t);
}

int32_t Configurations::Count(const AutomatonNode& repeat, int32_t counter) const {
  const int32_t most = repeat.max >= 0 ? repeat.max : repeat.min;
  return std::min(counter + 1, most);
}

void Configurations::Push(uint32_t node, int32_t counter, uint32_t stack, bool fresh) {
  if (seen_.size() > kMaxSeen) {
    overflow_ = true;
    return;
  }
  const Pending pending = {{node, counter, stack}, fresh};
  if (seen_.insert(pending).second) work_.push_back(pending);
}

void Configurations::CallRule(uint32_t rule, Place back) {
  if (automaton_.rules[rule].start == kNoNode) return;
  calls_.push_back({automaton_.rules[rule].rank, rule, back});
  std::push_heap(calls_.begin(), calls_.end(), std::greater<>());
}

uint32_t Configurations::ComputeStep(uint32_t configuration, uint8_t byte) {
  const std::span<const Place> from = places(configuration);
  for (size_t i = 0; i < from.size(); ++i) {
    const Place place = from[i];
    const AutomatonNode& node = automaton_.nodes[place.node];
    for (uint32_t e = node.first_edge; e < node.first_edge + node.edges; ++e) {
      const AutomatonEdge& edge = automaton_.edges[e];
      if (byte < edge.first || byte > edge.last) continue;
      int32_t counter = 0;
      if (edge.counter == AutomatonEdge::Counter::kKeep) counter = place.counter;
      if (edge.counter == AutomatonEdge::Counter::kAdd) {
        counter = Count(automaton_.nodes[edge.target], place.counter);
      }
      Push(edge.target, counter, place.stack, /*fresh=*/false);
    }
  }
  const uint32_t next = Close();
  steps_[configuration * classes_ + automaton_.byte_class[byte]] = next;
  return next;
}

// Where a rule ends that was called before the last byte. One that was called since is empty here, and its
// caller has gone on already.
void Configurations::Return(uint32_t stack) {
  // A copy by value: numbering a stack may move the pool, though Push does not.
  const std::span<const Place> backs = stacks_.places(stack);
  for (const Place& back : backs) {
    if (back.node == kNoNode) {
      can_end_ = true;
      continue;
    }
    const AutomatonNode& node = automaton_.nodes[back.node];
    Push(back.node, node.kind == Kind::kRepeat ? Count(node, back.counter) : 0, back.stack, /*fresh=*/false);
  }
}

void Configurations::Expand(const Pending& pending) {
  const auto& [place, fresh] = pending;
  const AutomatonNode& node = automaton_.nodes[place.node];
  switch (node.kind) {
    case Kind::kBytes:
      places_.push_back(place);
      return;
    case Kind::kChoice:
      for (uint32_t e = node.first_edge; e < node.first_edge + node.edges; ++e) {
        Push(automaton_.edges[e].target, 0, place.stack, fresh);
      }
      return;
    case Kind::kCall:
      if (automaton_.nodes[node.next].kind == Kind::kEnd) {
        // The last call of a rule returns where the rule does, so that lists do not make stacks grow.
        for (const Place& back : stacks_.places(place.stack)) CallRule(node.rule, back);
      } else {
        CallRule(node.rule, {node.next, 0, place.stack});
      }
      if (automaton_.rules[node.rule].nullable) Push(node.next, 0, place.stack, fresh);
      return;
    case Kind::kRepeat:
      if (node.max < 0 || place.counter < node.max) {
        if (node.edges > 0) places_.push_back(place);
        if (node.rule != kNoRule) CallRule(node.rule, place);
      }
      if (place.counter >= node.min) Push(node.next, 0, place.stack, fresh);
      return;
    case Kind::kEnd:
      if (!fresh) Return(place.stack);
      return;
  }
}

uint32_t Configurations::Close() {
  std::vector<Place> backs;
  while (!overflow_ && (!work_.empty() || !calls_.empty())) {
    if (!work_.empty()) {
      const Pending pending = work_.back();
      work_.pop_back();
      Expand(pending);
      overflow_ = overflow_ || places_.size() > 2 * kMaxPlaces || calls_.size() > kMaxSeen;
      continue;
    }
    // Calls of one rule make one stack. All of them are known: those who can call it come before it.
    const uint32_t rule = calls_.front().rule;
    backs.clear();
    while (!calls_.empty() && calls_.front().rule == rule) {
      backs.push_back(calls_.front().back);
      std::pop_heap(calls_.begin(), calls_.end(), std::greater<>());
      calls_.pop_back();
    }
    SortAndUnite(&backs);
    Push(automaton_.rules[rule].start, 0, stacks_.Intern(backs, false), /*fresh=*/true);
  }
  SortAndUnite(&places_);
  overflow_ = overflow_ || places_.size() > kMaxPlaces;
  const uint32_t result = overflow_ ? kDead : NumberConfiguration(places_, can_end_);
  work_.clear();
  seen_.clear();
  calls_.clear();
  places_.clear();
  can_end_ = false;
  overflow_ = false;
  return result;
}

uint32_t Configurations::NumberConfiguration(std::span<const Place> places, bool can_end) {
  const uint32_t number = configurations_.Intern(places, can_end);
  if (steps_.size() < configurations_.size() * classes_) {
    steps_.resize(configurations_.size() * classes_, kUnknown);
  }
  return number;
}

uint32_t Configurations::Import(const Configurations& other, uint32_t configuration) {
  // Stacks that it stands on, callers first: what a stack names has a lower number than the stack.
  std::vector<uint32_t> reached;
  absl::flat_hash_set<uint32_t> seen = {kRootStack};
  const auto reach = [&](std::span<const Place> places) {
    for (const Place& place : places) {
      if (seen.insert(place.stack).second) reached.push_back(place.stack);
    }
  };
  reach(other.places(configuration));
  for (size_t i = 0; i < reached.size(); ++i) reach(other.stacks_.places(reached[i]));
  std::sort(reached.begin(), reached.end());
  absl::flat_hash_map<uint32_t, uint32_t> here = {{kRootStack, kRootStack}};
  const auto translate = [&](std::span<const Place> places) {
    std::vector<Place> out(places.begin(), places.end());
    for (Place& place : out) place.stack = here.at(place.stack);
    SortAndUnite(&out);
    return out;
  };
  for (const uint32_t stack : reached) {
    here.emplace(stack, stacks_.Intern(translate(other.stacks_.places(stack)), false));
  }
  return NumberConfiguration(translate(other.places(configuration)), other.can_end(configuration));
}

}  // namespace moepool
