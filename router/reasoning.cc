#include "router/reasoning.h"

#include <algorithm>
#include <vector>

namespace moepool {

void ReasoningProgress::Push(const ReasoningLimit& limit, int32_t id) {
  ++generated_;
  if (limit.max_tokens < 0 || is_over_) return;
  if (started_ < limit.start_ids.size()) {
    is_over_ = limit.start_ids[started_] != id;
    ++started_;
    return;
  }
  // The longest beginning of end_ids that the answer ends with now.
  const std::vector<int32_t>& ends = limit.end_ids;
  std::vector<int32_t> last(ends.begin(), ends.begin() + static_cast<std::ptrdiff_t>(ended_));
  last.push_back(id);
  for (size_t skip = 0; skip <= last.size(); ++skip) {
    ended_ = last.size() - skip;
    if (std::equal(last.begin() + static_cast<std::ptrdiff_t>(skip), last.end(), ends.begin())) break;
  }
  is_over_ = ended_ == ends.size();
}

int32_t ReasoningProgress::Forced(const ReasoningLimit& limit) const {
  if (limit.max_tokens < 0 || is_over_ || limit.end_ids.empty()) return -1;
  if (started_ < limit.start_ids.size() || generated_ < limit.max_tokens) return -1;
  return limit.end_ids[ended_];
}

}  // namespace moepool
