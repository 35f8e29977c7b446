// Sets of Unicode scalar values: what a character class of a grammar stands for.
#pragma once

#include <cstdint>
#include <vector>

namespace moepool {

inline constexpr char32_t kLastCodePoint = 0x10FFFF;

struct CodePointRange {
  char32_t first;
  char32_t last;
  bool operator==(const CodePointRange&) const = default;
};

// Ranges in ascending order, apart from one another, without surrogates.
class CodePointSet {
 public:
  CodePointSet() = default;
  // In any order, overlapping or not; empty ranges and surrogates are dropped.
  explicit CodePointSet(std::vector<CodePointRange> ranges);
  static CodePointSet All() { return CodePointSet({{0, kLastCodePoint}}); }

  bool empty() const { return ranges_.empty(); }
  const std::vector<CodePointRange>& ranges() const { return ranges_; }
  bool Contains(char32_t c) const;
  CodePointSet Complement() const;
  CodePointSet Union(const CodePointSet& other) const;
  CodePointSet Intersect(const CodePointSet& other) const;
  bool operator==(const CodePointSet&) const = default;

 private:
  std::vector<CodePointRange> ranges_;
};

}  // namespace moepool
