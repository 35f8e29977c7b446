// Bounds what requests have been answered, over HTTP and gRPC, and their clients have not read: generation
// does not wait for a reader.
#pragma once

#include <atomic>
#include <cstddef>

namespace moepool {

struct InferEvent;

struct UnreadLimits {
  size_t call_bytes = 16 << 20;  // of one call, or of one stream over HTTP
  size_t bytes = 512 << 20;      // of all together
};

// About what an event takes until it is read.
size_t UnreadBytes(const InferEvent& event);

// Thread-safe. Outlives its shares.
class UnreadBudget {
 public:
  explicit UnreadBudget(const UnreadLimits& limits) : limits_(limits) {}
  const UnreadLimits& limits() const { return limits_; }
  size_t bytes() const { return bytes_; }  // of all together

  // One call's, or one connection's; given back when destroyed. Not thread-safe.
  class Share {
   public:
    explicit Share(UnreadBudget* budget) : budget_(budget) {}
    ~Share() { Remove(bytes_); }
    Share(const Share&) = delete;
    Share& operator=(const Share&) = delete;
    // False where it is too much: more than a call may have, or any at all where all together have too much.
    bool Add(size_t bytes) {
      bytes_ += bytes;
      const size_t all = budget_->bytes_.fetch_add(bytes) + bytes;
      return bytes_ <= budget_->limits_.call_bytes && (all <= budget_->limits_.bytes || bytes_ == bytes);
    }
    void Remove(size_t bytes) {
      bytes_ -= bytes;
      budget_->bytes_ -= bytes;
    }
    size_t bytes() const { return bytes_; }

   private:
    UnreadBudget* const budget_;
    size_t bytes_ = 0;
  };

 private:
  const UnreadLimits limits_;
  std::atomic<size_t> bytes_{0};
};

}  // namespace moepool
