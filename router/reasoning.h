// How far a model's thinking has come, and which id must be next where it has to end.
#pragma once

#include <cstdint>

#include "common/trunk/trunk.h"

namespace moepool {

inline constexpr size_t kMaxReasoningIds = 64;  // of start_ids, of end_ids, and of close_ids

// A value of the ids that were pushed alone.
class ReasoningProgress {
 public:
  // One more id of the answer. `limit` is the same for all of them.
  void Push(const ReasoningLimit& limit, int32_t id);
  // The id that must come next, or -1.
  int32_t Forced(const ReasoningLimit& limit) const;

 private:
  int32_t generated_ = 0;
  size_t started_ = 0;    // ids of start_ids
  size_t ended_ = 0;      // ids of end_ids that the answer ends with
  size_t closed_ = 0;     // the same of close_ids
  bool is_over_ = false;  // it has ended, or never began
};

}  // namespace moepool
