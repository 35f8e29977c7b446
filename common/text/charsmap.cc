#include "common/text/charsmap.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace moepool {
namespace {

// The rules are for characters and short clusters of them. The limit keeps the look-up of each position short
// where a malformed trie has a cycle.
constexpr size_t kMaxRuleBytes = 256;
// Of one replacement; those of NFKC have at most 33. Text does not grow without bound, nor does a look-up
// take long.
constexpr size_t kMaxReplacementBytes = 1024;
// Children of a node lie in its block of as many units.
constexpr uint32_t kBlockUnits = 256;
constexpr uint32_t kValueBit = 1u << 31;

bool IsValue(uint32_t unit) { return (unit & kValueBit) != 0; }
uint32_t Value(uint32_t unit) { return unit & ~kValueBit; }
bool HasValue(uint32_t unit) { return (unit >> 8 & 1) != 0; }
// Never equal to a byte where the unit is a value.
uint32_t Label(uint32_t unit) { return unit & (kValueBit | 0xFF); }
// Bit 9 widens the offset by a block.
uint32_t Offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }

uint32_t ReadU32(std::string_view bytes) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

absl::Status Malformed(const std::string& cause) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer: precompiled_charsmap: ", cause));
}

}  // namespace

absl::StatusOr<Charsmap> Charsmap::Parse(std::string_view compiled) {
  Charsmap map;
  if (compiled.empty()) return map;
  if (compiled.size() < 4) return Malformed(absl::StrCat(compiled.size(), " bytes, expected at least 4"));
  const uint32_t trie_bytes = ReadU32(compiled);
  compiled.remove_prefix(4);
  if (trie_bytes > compiled.size() || trie_bytes % (4 * kBlockUnits) != 0 || trie_bytes == 0) {
    return Malformed(absl::StrCat("a trie of ", trie_bytes, " bytes, expected a multiple of 1024 up to ",
                                  compiled.size()));
  }
  map.replacements_ = compiled.substr(trie_bytes);
  if (map.replacements_.empty() || map.replacements_.back() != '\0') {
    return Malformed(
        absl::StrCat("replacements of ", map.replacements_.size(), " bytes do not end with a zero"));
  }
  for (size_t at = 0; at < map.replacements_.size();) {
    const size_t end = map.replacements_.find('\0', at);
    if (end - at > kMaxReplacementBytes) {
      return Malformed(absl::StrCat("a replacement of ", end - at, " bytes, at most ", kMaxReplacementBytes));
    }
    at = end + 1;
  }
  for (size_t at = 0; at < trie_bytes; at += 4) map.units_.push_back(ReadU32(compiled.substr(at)));
  const auto& units = map.units_;
  if (IsValue(units[0])) return Malformed("the root of the trie is a value");
  for (uint32_t i = 0; i < units.size(); ++i) {
    if (IsValue(units[i])) {
      if (Value(units[i]) < map.replacements_.size()) continue;
      return Malformed(
          absl::StrCat("unit ", i, " points to byte ", Value(units[i]), " of ", map.replacements_.size()));
    }
    const uint32_t base = i ^ Offset(units[i]);
    if (base >= units.size()) {
      return Malformed(absl::StrCat("unit ", i, " points to unit ", base, " of ", units.size()));
    }
    if (HasValue(units[i]) && !IsValue(units[base])) {
      return Malformed(absl::StrCat("unit ", i, " has no value at unit ", base));
    }
  }
  return map;
}

Charsmap::Match Charsmap::Find(std::string_view text) const {
  if (units_.empty()) return {0, {}};
  size_t bytes = 0;
  uint32_t value = 0;
  uint32_t base = Offset(units_[0]);
  const size_t end = std::min(text.size(), kMaxRuleBytes);
  for (size_t i = 0; i < end; ++i) {
    const uint8_t byte = text[i];
    if (byte == 0) break;  // a child by zero is a value
    const uint32_t node = base ^ byte;
    if (Label(units_[node]) != byte) break;
    base = node ^ Offset(units_[node]);
    if (!HasValue(units_[node])) continue;
    bytes = i + 1;
    value = base;
  }
  if (bytes == 0) return {0, {}};
  return {bytes, &replacements_[Value(units_[value])]};
}

}  // namespace moepool
