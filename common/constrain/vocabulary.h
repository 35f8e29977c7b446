// A tokenizer's tokens as a matcher sees them: the bytes that each writes, sorted into a tree.
#pragma once

#include <algorithm>
#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/constrain/automaton.h"
#include "common/constrain/code_points.h"
#include "common/text/tokenizer.h"

namespace moepool {

// One bit an id.
using IdBits = std::vector<uint64_t>;
inline void SetBit(IdBits* bits, int32_t id) {
  (*bits)[static_cast<size_t>(id) / 64] |= uint64_t{1} << (static_cast<uint32_t>(id) % 64);
}
inline bool HasBit(std::span<const uint64_t> bits, int32_t id) {
  return (bits[static_cast<size_t>(id) / 64] >> (static_cast<uint32_t>(id) % 64) & 1) != 0;
}

// The tokens' bytes as a tree, its nodes in the order of a walk: a node's descendants are those after it up
// to `end`, so that a walk that fails at a node goes on at `end`.
class ByteTree {
 public:
  struct Node {
    uint32_t end;
    uint32_t first_id;  // of ids(); up to the next node's
    uint16_t depth;     // bytes from the root, from 1
    uint8_t byte;
  };
  // `sorted`: ids of tokens in order of their bytes, none of them empty.
  ByteTree(const std::vector<std::string>& bytes, std::span<const int32_t> sorted);

  uint32_t size() const { return static_cast<uint32_t>(nodes_.size()) - 1; }
  const Node& node(uint32_t n) const { return nodes_[n]; }
  // Of the tokens that end at node n.
  std::span<const int32_t> ids(uint32_t n) const {
    return std::span(ids_).subspan(nodes_[n].first_id, nodes_[n + 1].first_id - nodes_[n].first_id);
  }
  size_t id_count() const { return ids_.size(); }
  int max_depth() const { return max_depth_; }

 private:
  std::vector<Node> nodes_;  // and one past the last
  std::vector<int32_t> ids_;
  int max_depth_ = 0;
};

// The tokens that consist of characters of one set: where a grammar repeats the set, all of them may come,
// and only the others have to be looked at.
struct TokenSlice {
  static constexpr int kMaxCount = 16;
  CodePointSet set;
  // [n]: tokens of at most n characters, n up to kMaxCount; the last, of any number.
  std::vector<IdBits> up_to;
  int longest = 0;  // characters of the longest
  size_t tokens = 0;
  std::unique_ptr<ByteTree> others;
  // By node of the whole tree: characters of the longest token at or below it, 255 where one isn't of the
  // slice.
  std::vector<uint8_t> longest_below;
  size_t bytes = 0;  // that all of this takes

  const IdBits& UpTo(int64_t count) const {
    return up_to[static_cast<size_t>(count >= longest ? kMaxCount + 1 : std::min<int64_t>(count, kMaxCount))];
  }
};

// Immutable but for a cache of slices; thread-safe.
class Vocabulary {
 public:
  // bytes[id]: what the token writes; empty for those that write nothing, which can never be part of a
  // constrained text. InvalidArgument where one has more than 65,535.
  static absl::StatusOr<std::shared_ptr<const Vocabulary>> Make(std::vector<std::string> bytes);
  // Control tokens have the bytes that a grammar asks for them by, but those that end a text have none.
  static absl::StatusOr<std::shared_ptr<const Vocabulary>> Make(const Tokenizer& tokenizer);

  int32_t size() const { return static_cast<int32_t>(bytes_.size()); }
  size_t words() const { return (bytes_.size() + 63) / 64; }
  std::string_view bytes(int32_t id) const { return bytes_[static_cast<size_t>(id)]; }
  // The same, but of control tokens their names.
  std::string_view spelling(int32_t id) const {
    const auto special = specials_.find(id);
    return special == specials_.end() ? bytes(id) : std::string_view(special->second);
  }
  const ByteTree& tree() const { return *tree_; }
  // Names of those that a grammar can ask for.
  const ControlTokens& control_tokens() const { return control_tokens_; }
  // Characters that can be written whatever came before: as a token of their own, or byte by byte.
  const CodePointSet& writable() const { return writable_; }
  // Null where the set has too few tokens for a slice to save anything.
  std::shared_ptr<const TokenSlice> Slice(const CodePointSet& set) const EXCLUDES(mutex_);

 private:
  using Specials = absl::flat_hash_map<int32_t, std::string>;

  Vocabulary(std::vector<std::string> bytes, Specials specials);
  static absl::StatusOr<std::shared_ptr<const Vocabulary>> Make(std::vector<std::string> bytes,
                                                                Specials specials);
  void FindWritable();
  std::shared_ptr<const TokenSlice> MakeSlice(const CodePointSet& set) const;

  std::vector<std::string> bytes_;
  Specials specials_;
  ControlTokens control_tokens_;
  std::vector<int32_t> sorted_;  // ids of those with bytes that may be used, in order of bytes
  std::unique_ptr<ByteTree> tree_;
  CodePointSet writable_;
  mutable Mutex mutex_;
  // The last used first; null for sets that are not worth it.
  mutable std::list<std::pair<CodePointSet, std::shared_ptr<const TokenSlice>>> slices_ GUARDED_BY(mutex_);
};

}  // namespace moepool
