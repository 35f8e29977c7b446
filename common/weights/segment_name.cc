// See segment_name.h.
#include "common/weights/segment_name.h"

#include <algorithm>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "common/base/str.h"
#include "common/weights/checksum.h"

namespace moepool {
namespace {

constexpr std::string_view kSegmentSuffix = ".weights";
constexpr std::string_view kPartialSuffix = ".partial";
constexpr std::string_view kHexDigits = "0123456789abcdef";
constexpr std::string_view kDigits = "0123456789";

// Each takes what it names off the front of `rest`; false where that is not there.
bool TakeDigits(std::string_view* rest, std::string_view digits, size_t count) {
  if (rest->size() < count || rest->substr(0, count).find_first_not_of(digits) != std::string_view::npos) {
    return false;
  }
  rest->remove_prefix(count);
  return true;
}
bool TakeText(std::string_view* rest, std::string_view text) {
  if (!rest->starts_with(text)) return false;
  rest->remove_prefix(text.size());
  return true;
}
bool TakeSegmentName(std::string_view* rest) {
  if (!TakeDigits(rest, kHexDigits, 64) || !TakeText(rest, "-")) return false;
  const size_t layout_digits = std::min(rest->find_first_not_of(kDigits), rest->size());
  return layout_digits > 0 && TakeDigits(rest, kDigits, layout_digits) && TakeText(rest, "-") &&
         TakeDigits(rest, kHexDigits, 16) && TakeText(rest, kSegmentSuffix);
}

}  // namespace

std::string SegmentPrefix(const SegmentKind& kind) {
  return StrCat(absl::BytesToHexString(
                    absl::string_view(reinterpret_cast<const char*>(kind.model.data()), kind.model.size())),
                "-", kind.layout, "-");
}

std::string SegmentName(const SegmentKind& kind, std::span<const WeightEntry> entries) {
  std::vector<std::string_view> keys;
  for (const WeightEntry& entry : entries) keys.push_back(entry.key);
  std::sort(keys.begin(), keys.end());
  std::string all;
  for (const std::string_view key : keys) all.append(key).push_back('\n');
  const uint64_t hash = ChecksumOf(std::as_bytes(std::span<const char>(all.data(), all.size())));
  return StrCat(SegmentPrefix(kind), absl::StrFormat("%016x", hash), kSegmentSuffix);
}

std::string PartialName(std::string_view segment_name, uint64_t number) {
  return StrCat(".", segment_name, ".", absl::StrFormat("%016x", number), kPartialSuffix);
}

bool IsSegmentName(std::string_view name) { return TakeSegmentName(&name) && name.empty(); }

bool IsPartialName(std::string_view name) {
  return TakeText(&name, ".") && TakeSegmentName(&name) && TakeText(&name, ".") &&
         TakeDigits(&name, kHexDigits, 16) && TakeText(&name, kPartialSuffix) && name.empty();
}

}  // namespace moepool
