#include "gateway/dry_breakers.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/trunk/trunk.h"
#include "gateway/infer_request.h"

namespace moepool {
namespace {

constexpr size_t kMaxTailIds = 20;

// One breaker, and the ids of what is left of it behind each of its beginnings.
class Breaker {
 public:
  explicit Breaker(std::string_view text) : text_(text), tails_(text.size()) {}
  const std::string_view& text() const { return text_; }

  absl::StatusOr<const std::vector<int32_t>*> Tail(const Tokenizer& tokenizer, size_t begun_bytes) {
    std::optional<std::vector<int32_t>>& tail = tails_[begun_bytes];
    if (!tail.has_value()) {
      MOEPOOL_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                               tokenizer.Encode(text_.substr(begun_bytes), /*parse_special=*/false));
      if (ids.size() > kMaxTailIds) ids.resize(kMaxTailIds);
      tail = std::move(ids);
    }
    return &*tail;
  }

 private:
  const std::string_view text_;
  std::vector<std::optional<std::vector<int32_t>>> tails_;
};

}  // namespace

absl::StatusOr<DryBreakers> FindDryBreakers(const Tokenizer& tokenizer,
                                            const std::vector<std::string>& breakers) {
  std::vector<Breaker> parts(breakers.begin(), breakers.end());
  std::set<std::vector<int32_t>> sequences;
  size_t total_ids = 0;
  DryBreakers found;
  for (int32_t id = 0; id < tokenizer.VocabSize(); ++id) {
    const std::string word = tokenizer.Bytes(id, /*special=*/true);
    bool whole = false;
    for (Breaker& breaker : parts) {
      const std::string_view text = breaker.text();
      if (word.find(text) != std::string::npos) {
        whole = true;
        continue;
      }
      for (size_t begun = std::min(word.size(), text.size() - 1); begun > 0; --begun) {
        if (std::string_view(word).substr(word.size() - begun) != text.substr(0, begun)) continue;
        MOEPOOL_ASSIGN_OR_RETURN(const std::vector<int32_t>* const tail, breaker.Tail(tokenizer, begun));
        if (tail->empty()) {
          whole = true;  // the vocabulary cannot say the rest
          continue;
        }
        std::vector<int32_t> sequence = {id};
        sequence.insert(sequence.end(), tail->begin(), tail->end());
        const size_t length = sequence.size();
        if (sequences.insert(std::move(sequence)).second) total_ids += length;
      }
    }
    if (whole) {
      found.ids.push_back(id);
      ++total_ids;
    }
    if (total_ids > kMaxDryBreakerIds) {  // before anyone keeps them
      return InvalidField("dry_sequence_breakers",
                          absl::StrCat("are more than ", kMaxDryBreakerIds, " ids long in this vocabulary"));
    }
  }
  found.sequences.assign(sequences.begin(), sequences.end());
  return found;
}

absl::StatusOr<std::shared_ptr<const DryBreakers>> DryBreakerCache::Get(
    const std::vector<std::string>& breakers) {
  {
    MutexLock lock(&mutex_);
    const auto it = found_.find(breakers);
    if (it != found_.end()) return it->second;
  }
  MOEPOOL_ASSIGN_OR_RETURN(DryBreakers found, FindDryBreakers(tokenizer_, breakers));
  auto shared = std::make_shared<const DryBreakers>(std::move(found));
  MutexLock lock(&mutex_);
  if (found_.size() >= kMaxEntries) found_.clear();
  found_[breakers] = shared;
  return shared;
}

}  // namespace moepool
