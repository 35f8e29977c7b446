#include "common/constrain/vocabulary.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "common/base/str.h"
#include "common/base/utf8.h"
#include "common/constrain/grammar.h"

namespace moepool {
namespace {

constexpr size_t kMaxTokenBytes = std::numeric_limits<uint16_t>::max();
constexpr size_t kMaxSlices = 8;
constexpr size_t kMinSliceTokens = 64;
constexpr size_t kMinSliceShare = 16;  // of the vocabulary, as a divisor
constexpr uint8_t kNotOfSlice = 255;

// Characters of `token` where it consists of those of `set`, otherwise -1.
int CountCharacters(std::string_view token, const CodePointSet& set) {
  int count = 0;
  while (!token.empty()) {
    const Utf8Step step = NextUtf8(token);
    if (step.kind != Utf8Kind::kCharacter || !set.Contains(step.code_point)) return -1;
    token.remove_prefix(static_cast<size_t>(step.bytes));
    ++count;
  }
  return count;
}

}  // namespace

ByteTree::ByteTree(const std::vector<std::string>& bytes, std::span<const int32_t> sorted) {
  std::vector<uint32_t> path;  // nodes of the token before
  std::string_view before;
  for (const int32_t id : sorted) {
    const std::string_view token = bytes[static_cast<size_t>(id)];
    const auto common = static_cast<size_t>(
        std::mismatch(before.begin(), before.end(), token.begin(), token.end()).first - before.begin());
    for (size_t i = common; i < path.size(); ++i) nodes_[path[i]].end = static_cast<uint32_t>(nodes_.size());
    path.resize(common);
    for (size_t i = common; i < token.size(); ++i) {
      path.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.push_back({0, static_cast<uint32_t>(ids_.size()), static_cast<uint16_t>(i + 1),
                        static_cast<uint8_t>(token[i])});
    }
    ids_.push_back(id);
    max_depth_ = std::max(max_depth_, static_cast<int>(token.size()));
    before = token;
  }
  const auto end = static_cast<uint32_t>(nodes_.size());
  for (const uint32_t node : path) nodes_[node].end = end;
  nodes_.push_back({end + 1, static_cast<uint32_t>(ids_.size()), 0, 0});
}

Vocabulary::Vocabulary(std::vector<std::string> bytes, Specials specials)
    : bytes_(std::move(bytes)), specials_(std::move(specials)) {
  // A token of such bytes is of no use to a text, and must not pass for the beginning of a control token.
  for (size_t id = 0; id < bytes_.size(); ++id) {
    const bool no_text = bytes_[id].find_first_of("\xFE\xFF") != std::string::npos;
    if (no_text && !specials_.contains(static_cast<int32_t>(id))) bytes_[id].clear();
  }
  FindWritable();
  for (const auto& [id, name] : specials_) {
    if (bytes_[static_cast<size_t>(id)].empty()) continue;
    control_tokens_.insert(name);
    sorted_.push_back(id);
  }
  std::sort(sorted_.begin(), sorted_.end(), [this](int32_t a, int32_t b) {
    return std::pair(this->bytes(a), a) < std::pair(this->bytes(b), b);
  });
  tree_ = std::make_unique<ByteTree>(bytes_, sorted_);
}

absl::StatusOr<std::shared_ptr<const Vocabulary>> Vocabulary::Make(std::vector<std::string> bytes) {
  return Make(std::move(bytes), {});
}

absl::StatusOr<std::shared_ptr<const Vocabulary>> Vocabulary::Make(std::vector<std::string> bytes,
                                                                   Specials specials) {
  for (size_t id = 0; id < bytes.size(); ++id) {
    if (bytes[id].size() > kMaxTokenBytes) {
      return absl::InvalidArgumentError(
          StrCat("token ", id, " has ", bytes[id].size(), " bytes, at most ", kMaxTokenBytes));
    }
  }
  return std::shared_ptr<const Vocabulary>(new Vocabulary(std::move(bytes), std::move(specials)));
}

absl::StatusOr<std::shared_ptr<const Vocabulary>> Vocabulary::Make(const Tokenizer& tokenizer) {
  std::vector<std::string> bytes;
  Specials specials;
  for (int32_t id = 0; id < tokenizer.VocabSize(); ++id) {
    const bool ends = tokenizer.EndsGeneration(id);
    bytes.push_back(ends ? "" : tokenizer.Bytes(id, /*special=*/false));
    if (!bytes.back().empty()) continue;
    const std::string name = tokenizer.Bytes(id, /*special=*/true);
    specials.emplace(id, name);
    if (!ends && !name.empty()) bytes.back() = ControlTokenBytes(name);
  }
  return Make(std::move(bytes), std::move(specials));
}

// A token that ends inside a character is of use only where each byte that may follow has a token of its own.
// Otherwise such tokens are left out, and characters count that are tokens or whose bytes all are.
void Vocabulary::FindWritable() {
  std::vector<bool> has_byte(256);
  for (const std::string& token : bytes_) {
    if (token.size() == 1) has_byte[static_cast<uint8_t>(token[0])] = true;
  }
  const bool may_split =
      std::all_of(has_byte.begin() + 0x80, has_byte.begin() + 0xC0, [](bool b) { return b; });
  std::vector<CodePointRange> ranges;
  for (char32_t c = 0; c < 0x80; ++c) {
    if (has_byte[c]) ranges.push_back({c, c});
  }
  const auto add_lead = [&](uint32_t lead) {
    if (!has_byte[lead]) return;
    if (lead < 0xE0) {
      ranges.push_back({(lead & 0x1F) << 6, (lead & 0x1F) << 6 | 0x3F});
    } else if (lead < 0xF0) {
      ranges.push_back({std::max<char32_t>((lead & 0xF) << 12, 0x800), (lead & 0xF) << 12 | 0xFFF});
    } else {
      ranges.push_back({std::max<char32_t>((lead & 7) << 18, 0x10000), (lead & 7) << 18 | 0x3FFFF});
    }
  };
  for (uint32_t lead = 0xC2; may_split && lead <= 0xF4; ++lead) add_lead(lead);
  for (int32_t id = 0; id < size(); ++id) {
    const std::string_view token = bytes(id);
    if (token.empty() || specials_.contains(id)) continue;
    const bool whole = IsUtf8(token);
    if (whole || may_split) sorted_.push_back(id);
    const Utf8Step step = NextUtf8(token);
    if (whole && static_cast<size_t>(step.bytes) == token.size()) {
      ranges.push_back({step.code_point, step.code_point});
    }
  }
  writable_ = CodePointSet(std::move(ranges));
}

std::shared_ptr<const TokenSlice> Vocabulary::Slice(const CodePointSet& set) const {
  {
    MutexLock lock(&mutex_);
    for (auto it = slices_.begin(); it != slices_.end(); ++it) {
      if (!(it->first == set)) continue;
      slices_.splice(slices_.begin(), slices_, it);
      return it->second;
    }
  }
  std::shared_ptr<const TokenSlice> slice = MakeSlice(set);
  MutexLock lock(&mutex_);
  slices_.emplace_front(set, slice);
  if (slices_.size() > kMaxSlices) slices_.pop_back();
  return slice;
}

std::shared_ptr<const TokenSlice> Vocabulary::MakeSlice(const CodePointSet& set) const {
  auto slice = std::make_shared<TokenSlice>();
  slice->set = set;
  std::vector<int> counts(bytes_.size(), -1);
  std::vector<int32_t> others;
  for (const int32_t id : sorted_) {
    const int count = CountCharacters(bytes(id), set);
    counts[static_cast<size_t>(id)] = count;
    slice->longest = std::max(slice->longest, count);
    count < 0 ? others.push_back(id) : void(++slice->tokens);
  }
  if (slice->tokens < std::max(kMinSliceTokens, sorted_.size() / kMinSliceShare)) return nullptr;
  slice->others = std::make_unique<ByteTree>(bytes_, others);
  slice->up_to.assign(TokenSlice::kMaxCount + 2, IdBits(words()));
  for (const int32_t id : sorted_) {
    const int count = counts[static_cast<size_t>(id)];
    if (count < 0) continue;
    SetBit(&slice->up_to[static_cast<size_t>(std::min(count, TokenSlice::kMaxCount + 1))], id);
  }
  for (size_t n = 1; n < slice->up_to.size(); ++n) {
    for (size_t w = 0; w < words(); ++w) slice->up_to[n][w] |= slice->up_to[n - 1][w];
  }
  slice->longest_below.assign(tree_->size(), 0);
  for (uint32_t n = tree_->size(); n-- > 0;) {
    uint8_t& longest = slice->longest_below[n];
    for (const int32_t id : tree_->ids(n)) {
      const int count = counts[static_cast<size_t>(id)];
      longest = std::max(longest, count < 0 ? kNotOfSlice : static_cast<uint8_t>(std::min(count, 254)));
    }
    for (uint32_t child = n + 1; child < tree_->node(n).end; child = tree_->node(child).end) {
      longest = std::max(longest, slice->longest_below[child]);
    }
  }
  slice->bytes = slice->up_to.size() * words() * sizeof(uint64_t) + slice->longest_below.size() +
                 slice->others->size() * sizeof(ByteTree::Node) + slice->others->id_count() * sizeof(int32_t);
  return slice;
}

}  // namespace moepool
