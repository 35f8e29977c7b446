#include "common/constrain/code_points.h"

#include <algorithm>
#include <utility>

namespace moepool {
namespace {

constexpr char32_t kBelowSurrogates = 0xD7FF;
constexpr char32_t kAboveSurrogates = 0xE000;

}  // namespace

CodePointSet::CodePointSet(std::vector<CodePointRange> ranges) {
  std::vector<CodePointRange> scalar;
  for (const CodePointRange& range : ranges) {
    const CodePointRange below = {range.first, std::min(range.last, kBelowSurrogates)};
    const CodePointRange above = {std::max(range.first, kAboveSurrogates),
                                  std::min(range.last, kLastCodePoint)};
    if (below.first <= below.last) scalar.push_back(below);
    if (above.first <= above.last) scalar.push_back(above);
  }
  std::sort(scalar.begin(), scalar.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const CodePointRange& range : scalar) {
    if (!ranges_.empty() && range.first <= ranges_.back().last + 1) {
      ranges_.back().last = std::max(ranges_.back().last, range.last);
    } else {
      ranges_.push_back(range);
    }
  }
}

bool CodePointSet::Contains(char32_t c) const {
  const auto above = std::upper_bound(ranges_.begin(), ranges_.end(), c,
                                      [](char32_t value, const auto& range) { return value < range.first; });
  return above != ranges_.begin() && c <= std::prev(above)->last;
}

CodePointSet CodePointSet::Complement() const {
  std::vector<CodePointRange> gaps;
  char32_t next = 0;
  for (const CodePointRange& range : ranges_) {
    if (range.first > next) gaps.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kLastCodePoint) gaps.push_back({next, kLastCodePoint});
  return CodePointSet(std::move(gaps));
}

CodePointSet CodePointSet::Union(const CodePointSet& other) const {
  std::vector<CodePointRange> both = ranges_;
  both.insert(both.end(), other.ranges_.begin(), other.ranges_.end());
  return CodePointSet(std::move(both));
}

CodePointSet CodePointSet::Intersect(const CodePointSet& other) const {
  return Complement().Union(other.Complement()).Complement();
}

}  // namespace moepool
