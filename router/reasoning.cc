#include "router/reasoning.h"

#include <algorithm>
#include <vector>

namespace moepool {
namespace {

// How many of `ids` the answer ends with once `id` has come, where it was `matched` before.
size_t Follow(const std::vector<int32_t>& ids, size_t matched, int32_t id) {
  std::vector<int32_t> last(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(matched));
  last.push_back(id);
  for (size_t skip = 0; skip <= last.size(); ++skip) {
    const size_t size = last.size() - skip;
    if (size > ids.size()) continue;
    if (std::equal(last.begin() + static_cast<std::ptrdiff_t>(skip), last.end(), ids.begin())) return size;
  }
  return 0;
}

}  // namespace

void ReasoningProgress::Push(const ReasoningLimit& limit, int32_t id) {
  const bool forced = Forced(limit) >= 0;
  ++generated_;
  if (limit.max_tokens < 0 || is_over_) return;
  if (started_ < limit.start_ids.size()) {
    is_over_ = limit.start_ids[started_] != id;
    ++started_;
    return;
  }
  ended_ = Follow(limit.end_ids, ended_, id);
  is_over_ = ended_ == limit.end_ids.size();
  if (forced || limit.close_ids.empty()) return;  // what is forced comes to its own end
  closed_ = Follow(limit.close_ids, closed_, id);
  is_over_ = is_over_ || closed_ == limit.close_ids.size();
}

int32_t ReasoningProgress::Forced(const ReasoningLimit& limit) const {
  if (limit.max_tokens < 0 || is_over_ || limit.end_ids.empty()) return -1;
  if (started_ < limit.start_ids.size() || generated_ < limit.max_tokens) return -1;
  return limit.end_ids[ended_];
}

}  // namespace moepool
