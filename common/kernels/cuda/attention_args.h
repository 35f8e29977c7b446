// The launches of the attention kernels. Arithmetic and layout of the cache: kernels.h and backend.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/backend/backend.h"

namespace moepool {

// One row of the step, as the kernels see it.
struct AttendRow {
  int32_t position = 0;
  int32_t first_key = 0;  // the first position that it sees; its own is the last
  int32_t table = 0;      // blocks[table + b] is the block of positions 16 b ...; may be negative
  // Of its first split's partial result, counted in splits of rows; -1: the row has none, and its result is
  // merged in the output.
  int32_t partial = -1;
};

// What one thread block does of a KV head: `heads` queries of each of some neighbouring rows of a sequence,
// over some splits in ascending order. Rows with partial results are in units of one split.
struct AttendUnit {
  int32_t row_begin = 0;
  int32_t rows = 0;
  int32_t head_begin = 0;  // of those that share the KV head
  int32_t heads = 0;
  int32_t split_begin = 0;
  int32_t split_end = 0;
};

inline constexpr int kNarrowQueries = 8;  // rows * heads of a unit, at most
inline constexpr int kWideQueries = 32;   // the same of wide units, whose head_dim is a multiple of 4

// Tables that the launches of one step share, in device memory.
struct AttentionTables {
  const AttendRow* rows = nullptr;
  const int32_t* blocks = nullptr;
  const float* cos = nullptr;  // [rows, rope_dims / 2]
  const float* sin = nullptr;
};

// Normalises (where asked), rotates, and writes K and V to the cache.
struct ProjectArgs {
  AttentionShape shape;
  AttentionTables tables;
  KvLayer kv;
  int64_t head_bytes = 0;  // KvHeadBlockBytes()
  float* qkv = nullptr;    // [rows, (heads + 2 * kv_heads) * head_dim], overwritten
  int32_t rows = 0;
};

// Attends to the cache. head_dim is even and at most 512; of Q8_0 a multiple of 32.
struct AttendArgs {
  AttentionTables tables;
  KvLayer kv;
  int64_t head_bytes = 0;      // KvHeadBlockBytes()
  const float* qkv = nullptr;  // as ProjectArgs leaves it
  float* out = nullptr;        // [rows, heads * head_dim]
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  float scale = 0;
  const AttendUnit* units = nullptr;
  int32_t unit_count = 0;
  const int32_t* units_there = nullptr;  // where not null, as many of them are units
  int32_t queries = 0;                   // the most of a unit; more than kNarrowQueries: wide
  float* partials = nullptr;             // [splits of rows, heads, head_dim]
  float* max_sums = nullptr;             // [splits of rows, heads, 2]
};

// The output of rows that have partial results.
struct MergeArgs {
  const AttendRow* rows = nullptr;
  const int32_t* merged = nullptr;  // [count] numbers of rows
  int32_t count = 0;
  const int32_t* merged_there = nullptr;  // where not null, as many of them are rows
  int32_t heads = 0;
  int32_t head_dim = 0;
  const float* partials = nullptr;
  const float* max_sums = nullptr;
  float* out = nullptr;
};

struct AttentionKernels {
  void (*project)(const ProjectArgs& args, void* stream);
  void (*attend)(const AttendArgs& args, void* stream);
  void (*merge)(const MergeArgs& args, void* stream);
};

}  // namespace moepool
