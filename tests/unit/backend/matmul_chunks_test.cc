// The chunks of a product cover each (group, token) once.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "common/backend/cpu/matmul.h"

namespace moepool {
namespace {

TEST(MatMulChunksTest, CoverEachGroupAndTokenOnce) {
  for (int64_t rows : {0, 1, 16, 17, 96, 576, 4999}) {
    for (int64_t cols : {0, 32, 576, 14336}) {
      for (int64_t tokens : {0, 1, 2, 64, 65, 200}) {
        for (int threads : {1, 2, 7}) {
          for (int multiple : {1, 2}) {
            PackedMatrix w;
            w.rows = rows;
            w.cols = cols;
            const MatMulChunks chunks(w, tokens, threads, multiple);
            std::vector<int> seen(w.groups() * tokens);
            for (int64_t i = 0; i < chunks.count(); ++i) {
              const MatMulChunk c = chunks.At(i);
              EXPECT_EQ(c.group_begin % multiple, 0);
              EXPECT_LE(c.group_end - c.group_begin, chunks.group_chunk());
              EXPECT_LE(c.token_end - c.token_begin, chunks.token_chunk());
              for (int64_t g = c.group_begin; g < c.group_end; ++g) {
                for (int64_t t = c.token_begin; t < c.token_end; ++t) ++seen[g * tokens + t];
              }
            }
            EXPECT_EQ(seen, std::vector<int>(seen.size(), 1)) << rows << "x" << cols << ", tokens " << tokens;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace moepool
