#include "common/constrain/configurations.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <utility>

#include "absl/hash/hash.h"

namespace moepool {
namespace {

using Kind = AutomatonNode::Kind;

// Stands at the bottom of each stack.
constexpr Place kBottom = {kNoNode, 0, 0};
// Looking at a place that the byte does not lead on from is cheap.
constexpr size_t kPlacesPerWork = 8;

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
  NumberConfiguration({}, false);                // kDead
  configurations_.Intern({&kBottom, 1}, false);  // kTooMany, as no other is
  steps_.resize(2 * classes_, kTooMany);
  stacks_.Intern({&kBottom, 1}, false);
  can_end_ = automaton_.rules[automaton_.root].nullable;
  CallRule(automaton_.root, kBottom);
  start_ = Unpack(Close()).configuration;
}

size_t Configurations::bytes() const {
  return stacks_.bytes() + configurations_.bytes() + steps_.capacity() * sizeof(uint32_t);
}

int32_t Configurations::Count(const AutomatonNode& repeat, int32_t counter) const {
  const int32_t most = repeat.max >= 0 ? repeat.max : repeat.min;
  return std::min(counter + 1, most);
}

void Configurations::Push(uint32_t node, int32_t counter, uint32_t stack, bool fresh) {
  const Pending pending = {{node, counter, stack}, fresh};
  if (Work(1) && seen_.insert(pending).second) pending_.push_back(pending);
}

void Configurations::CallRule(uint32_t rule, Place back) {
  if (!Work(1) || automaton_.rules[rule].start == kNoNode) return;
  calls_.push_back({automaton_.rules[rule].rank, rule, back});
  std::push_heap(calls_.begin(), calls_.end(), std::greater<>());
}

uint32_t Configurations::ComputeStep(uint32_t configuration, uint8_t byte) {
  const std::span<const Place> from = places(configuration);
  Work(from.size() / kPlacesPerWork);
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
  steps_[size_t{configuration} * classes_ + automaton_.byte_class[byte]] = next;
  return next;
}

// Where a rule ends that was called before the last byte. One that was called since is empty here, and its
// caller has gone on already.
void Configurations::Return(uint32_t stack) {
  for (const Place& back : stacks_.places(stack)) {  // Push numbers none, which would move them
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
  while (Work(0) && (!pending_.empty() || !calls_.empty())) {
    if (!pending_.empty()) {
      const Pending pending = pending_.back();
      pending_.pop_back();
      Expand(pending);
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
    UniteAlike(&backs);
    Push(automaton_.rules[rule].start, 0, stacks_.Intern(backs, false), /*fresh=*/true);
  }
  UniteAlike(&places_);
  const uint32_t reached = Work(0) ? NumberConfiguration(places_, can_end_) : kTooMany;
  const auto log_work = static_cast<uint32_t>(std::bit_width(std::max<size_t>(work_done_, 1) - 1));
  pending_.clear();
  seen_.clear();
  calls_.clear();
  places_.clear();
  united_.clear();
  can_end_ = false;
  work_done_ = 0;
  return reached | std::min<uint32_t>(log_work, 31 - 1) << kConfigurationBits;
}

void Configurations::UniteAlike(std::vector<Place>* places) {
  if (!Work(0) || places->size() < 2) return;
  std::vector<Place> sorted = *places;
  SortAndUnite(&sorted);
  places->clear();
  for (size_t i = 0; i < sorted.size();) {
    size_t end = i + 1;
    while (end < sorted.size() && sorted[end].node == sorted[i].node &&
           sorted[end].counter == sorted[i].counter) {
      ++end;
    }
    Place& one = places->emplace_back(sorted[i]);
    if (end > i + 1) {
      std::vector<uint32_t> stacks;
      for (; i < end; ++i) stacks.push_back(sorted[i].stack);
      one.stack = Unite(std::move(stacks));
    }
    i = end;
  }
}

Configurations::Union Configurations::BeginUnion(std::vector<uint32_t> stacks) {
  Union one;
  for (const uint32_t stack : stacks) {
    const std::span<const Place> places = stacks_.places(stack);
    one.places.insert(one.places.end(), places.begin(), places.end());
  }
  Work(one.places.size());
  SortAndUnite(&one.places);
  one.stacks = std::move(stacks);
  return one;
}

// Places alike in two stacks are one in their union, and so on below them. Stacks are deep, so that this does
// not call itself.
uint32_t Configurations::Unite(std::vector<uint32_t> stacks) {
  if (const auto known = united_.find(stacks); known != united_.end()) return known->second;
  std::vector<Union> path;
  path.push_back(BeginUnion(std::move(stacks)));
  uint32_t result = kRootStack;
  while (!path.empty() && Work(0)) {
    Union& top = path.back();
    std::vector<uint32_t> missing;
    while (top.next_place < top.places.size()) {
      size_t end = top.next_place;
      Place one = top.places[end];
      std::vector<uint32_t> alike;
      for (; end < top.places.size() && top.places[end].node == one.node &&
             top.places[end].counter == one.counter;
           ++end) {
        alike.push_back(top.places[end].stack);
      }
      if (alike.size() > 1) {
        const auto known = united_.find(alike);
        if (known == united_.end()) {
          missing = std::move(alike);
          break;
        }
        one.stack = known->second;
      }
      top.united.push_back(one);
      top.next_place = end;
    }
    if (!missing.empty()) {
      path.push_back(BeginUnion(std::move(missing)));
      continue;
    }
    result = stacks_.Intern(top.united, false);
    united_.emplace(std::move(top.stacks), result);
    path.pop_back();
  }
  return result;
}

uint32_t Configurations::NumberConfiguration(std::span<const Place> places, bool can_end) {
  const uint32_t number = configurations_.Intern(places, can_end);
  const size_t known = steps_.size();
  if (known >= configurations_.size() * classes_) return number;
  steps_.resize(known + classes_, kDead);
  // Steps by bytes of some edge are not known yet; the others lead nowhere.
  edge_ends_.assign(classes_ + 1, 0);
  for (const Place& place : places) {
    const AutomatonNode& node = automaton_.nodes[place.node];
    for (uint32_t e = node.first_edge; e < node.first_edge + node.edges; ++e) {
      ++edge_ends_[automaton_.byte_class[automaton_.edges[e].first]];
      --edge_ends_[automaton_.byte_class[automaton_.edges[e].last] + size_t{1}];
    }
  }
  int32_t open = 0;
  for (size_t i = 0; i < classes_; ++i) {
    open += edge_ends_[i];
    if (open > 0) steps_[known + i] = kUnknown;
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
