// A matrix product shared out over threads: chunks of output rows, and of tokens where there are many.
#pragma once

#include <cstdint>

#include "common/backend/backend.h"
#include "common/backend/cpu/cpu_backend.h"
#include "common/backend/cpu/scratch.h"

namespace moepool {

// Activations as kernels read them; the sums that Q4 and Q6 products need are computed once a call and kept
// here.
class PreparedRows {
 public:
  // `quantized`: prepares x.q and x.scale. Pointers of x must stay valid.
  void Prepare(CpuDevice* device, const Activations& x, bool quantized, int threads);
  ActivationRows Select(const int32_t* index, int64_t count) const;

 private:
  ActivationRows rows_{};
  Scratch<ActivationBlock> blocks_;
};

struct MatMulChunk {
  int64_t group_begin;
  int64_t group_end;
  int64_t token_begin;
  int64_t token_end;
};

// Chunks of a product of `tokens` rows with w: enough of them to balance the threads, each large enough to
// repay its hand-out, with a chunk's activations small enough to stay in the second-level cache.
class MatMulChunks {
 public:
  static constexpr int64_t kMaxTokens = 64;  // of a chunk
  // Chunks begin at multiples of `group_multiple` groups.
  MatMulChunks(const PackedMatrix& w, int64_t tokens, int threads, int64_t group_multiple);
  int64_t count() const { return group_chunks_ * token_chunks_; }
  MatMulChunk At(int64_t i) const;
  int64_t group_chunk() const { return group_chunk_; }
  int64_t token_chunk() const { return token_chunk_; }

 private:
  int64_t groups_;
  int64_t tokens_;
  int64_t group_chunk_;  // groups in a chunk
  int64_t token_chunk_;
  int64_t group_chunks_;
  int64_t token_chunks_;
};

}  // namespace moepool
