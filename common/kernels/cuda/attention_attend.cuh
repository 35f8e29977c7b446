// Attention to the paged cache. A thread block takes the queries of one unit and KV head, reads each K and V
// of a split once for all of them, and leaves each query's maximum, sum and accumulator: merged in the output
// where the unit has the splits one after another, as a partial result where other blocks have other splits.
//
// A score is one thread's, dimensions ascending; an element of the accumulator is one thread's, keys
// ascending. So nothing depends on which queries share a unit, nor on who has which splits.
#pragma once

#include "common/kernels/cuda/attention_args.h"
#include "common/kernels/cuda/kv_elements.cuh"

namespace moepool {
namespace {

// Floats between the probabilities of two queries: neighbouring queries fall on different banks.
constexpr int kProbabilityStride = kAttentionSplit + 4;

// How a kernel shares out its work.
//   vec: dimensions that a thread takes from one load of q or of V; divides head_dim.
//   keys, queries: the tile of scores of a thread, of keys of one block.
//   tile: queries of a unit at most.   value_queries: of the tile of accumulators of a thread.
template <KvType type_, int vec_, int threads_, int keys_, int queries_, int tile_, int value_queries_,
          int value_keys_>
struct AttendShape {
  static constexpr KvType type = type_;
  static constexpr int vec = vec_;
  static constexpr int threads = threads_;
  static constexpr int keys = keys_;
  static constexpr int queries = queries_;
  static constexpr int tile = tile_;
  static constexpr int value_queries = value_queries_;
  static constexpr int value_keys = value_keys_;
  static constexpr int key_threads = kAttentionSplit / keys;
  // Dimensions of K that are under way at once; they divide head_dim. The fewer bytes, the more of them.
  static constexpr int step = vec == 4 && keys * kKvElementBytes<type> <= 4 ? 2 * vec : vec;
  // Several warps read the same K and V, which are in the first cache only while the warps are near each
  // other.
  static constexpr bool together = threads > key_threads;
  static_assert(threads % key_threads == 0 && threads / key_threads * queries == tile);
  static_assert(kKvBlockTokens % keys == 0 && kKvBlockTokens % value_keys == 0 && value_keys % 4 == 0);
};

// Decode: memory sets the pace. With four queries of 128 dimensions in F16, 4 KiB of K or of V are under way,
// so that three thread blocks of a multiprocessor have the 6 to 15 KiB that its share of the bandwidth needs
// at 500 ns. With eight, registers are left for half as much of V.
template <KvType type, int vec, int queries>
using NarrowShape = AttendShape<type, vec, 128, 2, queries, queries, (queries + 3) / 4,
                                (type == KvType::kF32 || queries > 4 ? 8 : 16)>;
// Prefill: tiles of 8 x 4 scores and 4 x 4 accumulators, so that arithmetic does.
template <KvType type>
using WideShape = AttendShape<type, 4, 256, 8, 4, kWideQueries, 4, 4>;

// A query within a split; begin == end: its row sees nothing of it.
struct QueryState {
  const float* q;
  float* acc;     // of the output or of a partial result
  int32_t begin;  // keys, from the split's start
  int32_t end;
  int32_t first;   // nothing was merged before
  int32_t last;    // nothing will be
  float* max_sum;  // of the partial result, or null
  float max;       // of all splits so far
  float sum;
  float keep;  // factors of the accumulator so far and of this split's
  float take;
  float finish;
};

template <int vec>
SIMT_DEVICE void LoadFloats(const float* p, float (&x)[vec]) {
  KvElements<KvType::kF32, vec> elements;
  elements.Load(reinterpret_cast<const std::byte*>(p));
  SIMT_UNROLL
  for (int i = 0; i < vec; ++i) x[i] = elements[i];
}

// Of memory that this kernel writes.
template <int count>
SIMT_DEVICE void ReadFloats(const float* p, float (&x)[count]) {
  static_assert(count == 4 || count == 2);
  if constexpr (count == 4) {
    const simt::Vector16 v = simt::Read16(p);
    x[0] = simt::BitsFloat(v.x);
    x[1] = simt::BitsFloat(v.y);
    x[2] = simt::BitsFloat(v.z);
    x[3] = simt::BitsFloat(v.w);
  } else {
    const simt::Vector8 v = simt::Read8(p);
    x[0] = simt::BitsFloat(v.x);
    x[1] = simt::BitsFloat(v.y);
  }
}
template <int count>
SIMT_DEVICE void WriteFloats(const float (&x)[count], float* p) {
  static_assert(count % 4 == 0 || count == 2);
  if constexpr (count == 2) {
    simt::Write8({simt::FloatBits(x[0]), simt::FloatBits(x[1])}, p);
  } else {
    SIMT_UNROLL
    for (int i = 0; i < count; i += 4) {
      simt::Write16({simt::FloatBits(x[i]), simt::FloatBits(x[i + 1]), simt::FloatBits(x[i + 2]),
                     simt::FloatBits(x[i + 3])},
                    p + i);
    }
  }
}

// What a thread block reads: the cache of its KV head and the blocks of the split.
struct SplitKeys {
  const std::byte* k;
  const std::byte* v;
  int64_t block_bytes;
  const int32_t* blocks;
  int head_dim;
  SIMT_DEVICE int64_t Offset(int key) const {
    return static_cast<int32_t>(simt::Load4(blocks + key / kKvBlockTokens)) * block_bytes;
  }
};

SIMT_DEVICE void SetQuery(const AttendArgs& args, const AttendUnit& unit, int split, int n,
                          QueryState* state) {
  const int row = unit.row_begin + n / unit.heads;
  const int heads = args.heads / args.kv_heads;
  const int head = static_cast<int>(blockIdx.y) * heads + unit.head_begin + n % unit.heads;
  const AttendRow r = args.tables.rows[row];
  const int start = split * kAttentionSplit;
  const int begin = r.first_key > start ? r.first_key - start : 0;
  const int end = r.position + 1 - start < kAttentionSplit ? r.position + 1 - start : kAttentionSplit;
  state->begin = begin < end ? begin : 0;
  state->end = begin < end ? end : 0;
  const int64_t row_floats = int64_t{args.heads + 2 * args.kv_heads} * args.head_dim;
  state->q = args.qkv + row * row_floats + head * args.head_dim;
  const int first_split = r.first_key / kAttentionSplit;
  const bool partial = r.partial >= 0;
  const int64_t place = int64_t{partial ? r.partial + split - first_split : row} * args.heads + head;
  state->first = partial || split == first_split ? 1 : 0;
  state->last = !partial && split == r.position / kAttentionSplit ? 1 : 0;
  state->acc = (partial ? args.partials : args.out) + place * args.head_dim;
  state->max_sum = partial ? args.max_sums + 2 * place : nullptr;
}

// p[n, key] = (sum_d k[d] q[d]) * scale. Keys that a query does not see may be given any value.
template <typename S>
SIMT_DEVICE void Score(const SplitKeys& split, const QueryState* state, int queries, float scale, float* p) {
  constexpr KvType type = S::type;
  constexpr int bytes = kKvElementBytes<type>;
  const int thread = static_cast<int>(threadIdx.x);
  const int key = thread % S::key_threads * S::keys;
  const int first = thread / S::key_threads * S::queries;
  const float* q[S::queries];
  int begin = kAttentionSplit;
  int end = 0;
  SIMT_UNROLL
  for (int i = 0; i < S::queries; ++i) {
    const QueryState& query = state[first + i < queries ? first + i : queries - 1];
    q[i] = query.q;
    if (query.begin >= query.end) continue;
    begin = query.begin < begin ? query.begin : begin;
    end = query.end > end ? query.end : end;
  }
  const bool active = first < queries && key < end && key + S::keys > begin;
  if (!active && !S::together) return;

  const std::byte* const block = split.k + (active ? split.Offset(key) : 0);
  const std::byte* const k = block + key % kKvBlockTokens * bytes;
  KvElements<type, S::keys> next[S::step];
  const auto load = [&](int d) {
    SIMT_UNROLL
    for (int i = 0; i < S::step; ++i) next[i].Load(k + (d + i) * (kKvBlockTokens * bytes));
  };
  if (active) load(0);
  float sum[S::queries][S::keys] = {};
  [[maybe_unused]] float part[S::queries][S::keys] = {};  // of a block of codes
  for (int d = 0; d < split.head_dim; d += S::step) {
    if (S::together && d % 32 == 0) simt::SyncThreads();
    if (!active) continue;
    KvElements<type, S::keys> now[S::step];
    SIMT_UNROLL
    for (int i = 0; i < S::step; ++i) now[i] = next[i];
    if (d + S::step < split.head_dim) load(d + S::step);
    SIMT_UNROLL
    for (int v = 0; v < S::step; v += S::vec) {
      float x[S::queries][S::vec];
      SIMT_UNROLL
      for (int i = 0; i < S::queries; ++i) LoadFloats(q[i] + d + v, x[i]);
      SIMT_UNROLL
      for (int e = 0; e < S::vec; ++e) {
        SIMT_UNROLL
        for (int j = 0; j < S::keys; ++j) {
          const float element = now[v + e][j];
          SIMT_UNROLL
          for (int i = 0; i < S::queries; ++i) {
            float& to = type == KvType::kQ8_0 ? part[i][j] : sum[i][j];
            to = simt::Fma(element, x[i][e], to);
          }
        }
      }
    }
    if constexpr (type == KvType::kQ8_0) {
      if ((d + S::step) % kKvQuantBlock != 0) continue;
      KvScales<S::keys> scales;
      scales.Load(block + KvScaleOffset(split.head_dim, d) + 2 * (key % kKvBlockTokens));
      SIMT_UNROLL
      for (int j = 0; j < S::keys; ++j) {
        const float k_scale = scales[j];
        SIMT_UNROLL
        for (int i = 0; i < S::queries; ++i) {
          sum[i][j] = simt::Fma(part[i][j], k_scale, sum[i][j]);
          part[i][j] = 0;
        }
      }
    }
  }
  if (!active) return;
  SIMT_UNROLL
  for (int i = 0; i < S::queries; ++i) {
    if (first + i >= queries) break;
    SIMT_UNROLL
    for (int j = 0; j < S::keys; ++j) sum[i][j] *= scale;
    WriteFloats(sum[i], p + (first + i) * kProbabilityStride + key);
  }
}

// Merges the maximum and the sum of this split into those of the query.
SIMT_DEVICE void MergeQuery(float max, float sum, QueryState* state) {
  if (state->first != 0) {
    state->max = max;
    state->sum = sum;
  } else {
    const float m = state->max > max ? state->max : max;
    state->keep = DeviceExp(state->max - m);
    state->take = DeviceExp(max - m);
    state->max = m;
    state->sum = simt::Fma(sum, state->take, state->sum * state->keep);
  }
  if (state->last != 0) state->finish = simt::Divide(1.0f, state->sum);
  if (state->max_sum == nullptr) return;
  state->max_sum[0] = max;
  state->max_sum[1] = sum;
}

// p = exp(p - max), of keys that are seen. A query is 16 threads', thread i's the keys i, i + 16, ...
template <typename S>
SIMT_DEVICE void Exponentiate(int queries, QueryState* state, float* p) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 16;
  const uint32_t mask = 0xffffu << (thread & 16);
  for (int n = thread / 16; n < queries; n += S::threads / 16) {
    const int begin = state[n].begin;
    const int end = state[n].end;
    if (begin >= end) continue;
    float* const row = p + n * kProbabilityStride;
    float max = simt::BitsFloat(0xff800000u);
    SIMT_UNROLL
    for (int i = 0; i < kAttentionSplit / 16; ++i) {
      const int key = 16 * i + lane;
      if (key >= begin && key < end && row[key] > max) max = row[key];
    }
    SIMT_UNROLL
    for (int apart = 8; apart > 0; apart /= 2) {
      const float other = simt::ShuffleXor(mask, max, apart);
      max = other > max ? other : max;
    }
    max += 0.0f;
    float sum = 0;
    for (int key = lane; key < end; key += 16) {
      if (key < begin) continue;
      const float e = DeviceExp(row[key] - max);
      row[key] = e;
      sum += e;
    }
    // The tree of generic.h: additions of the same pairs, whichever comes first.
    SIMT_UNROLL
    for (int apart = 8; apart > 0; apart /= 2) sum += simt::ShuffleXor(mask, sum, apart);
    if (lane == 0) MergeQuery(max, sum, &state[n]);
  }
}

// The accumulators of one thread: `vec` dimensions from d on of some queries.
template <typename S>
struct Accumulators {
  float acc[S::value_queries][S::vec];
  const float* p[S::value_queries];
  int begin[S::value_queries];
  int end[S::value_queries];
  int seen_begin;  // keys that some query sees, and that all see
  int seen_end;
  int common_begin;
  int common_end;

  SIMT_DEVICE Accumulators(const QueryState* state, int first, int queries, const float* probabilities) {
    seen_begin = common_end = kAttentionSplit;
    seen_end = common_begin = 0;
    SIMT_UNROLL
    for (int i = 0; i < S::value_queries; ++i) {
      const int n = first + i < queries ? first + i : queries - 1;
      p[i] = probabilities + n * kProbabilityStride;
      begin[i] = state[n].begin;
      end[i] = state[n].end;
      SIMT_UNROLL
      for (int e = 0; e < S::vec; ++e) acc[i][e] = 0;
      common_begin = begin[i] > common_begin ? begin[i] : common_begin;
      common_end = end[i] < common_end ? end[i] : common_end;
      if (begin[i] >= end[i]) continue;
      seen_begin = begin[i] < seen_begin ? begin[i] : seen_begin;
      seen_end = end[i] > seen_end ? end[i] : seen_end;
    }
  }

  // Of `value_keys` keys from `key` on. A key that is not seen is left out: its V may be anything.
  template <bool all_seen>
  SIMT_DEVICE void Add(int key, const KvElements<S::type, S::vec> (&v)[S::value_keys],
                       const float (&v_scale)[S::value_keys]) {
    SIMT_UNROLL
    for (int j0 = 0; j0 < S::value_keys; j0 += 4) {
      float weight[S::value_queries][4];
      SIMT_UNROLL
      for (int i = 0; i < S::value_queries; ++i) ReadFloats(p[i] + key + j0, weight[i]);
      SIMT_UNROLL
      for (int j = 0; j < 4; ++j) {
        SIMT_UNROLL
        for (int i = 0; i < S::value_queries; ++i) {
          if (!all_seen && (key + j0 + j < begin[i] || key + j0 + j >= end[i])) continue;
          const float w = S::type == KvType::kQ8_0 ? weight[i][j] * v_scale[j0 + j] : weight[i][j];
          SIMT_UNROLL
          for (int e = 0; e < S::vec; ++e) acc[i][e] = simt::Fma(w, v[j0 + j][e], acc[i][e]);
        }
      }
    }
  }
};

// acc[d] = sum p v[d], keys ascending; merged or stored as each query's state says.
template <typename S>
SIMT_DEVICE void AddValues(const SplitKeys& split, const QueryState* state, int queries, const float* p) {
  constexpr KvType type = S::type;
  constexpr int bytes = kKvElementBytes<type>;
  const int dim_threads = split.head_dim / S::vec;
  const int items = (queries + S::value_queries - 1) / S::value_queries * dim_threads;
  for (int item = static_cast<int>(threadIdx.x); item < items; item += S::threads) {
    const int d = item % dim_threads * S::vec;
    const int first = item / dim_threads * S::value_queries;
    Accumulators<S> sums(state, first, queries, p);
    KvElements<type, S::vec> next[S::value_keys];
    [[maybe_unused]] KvScales<S::value_keys> next_scales;
    const auto load = [&](int key) {
      const std::byte* const block = split.v + split.Offset(key);
      const int slot = key % kKvBlockTokens;
      const std::byte* const v = block + (slot * split.head_dim + d) * bytes;
      SIMT_UNROLL
      for (int j = 0; j < S::value_keys; ++j) next[j].Load(v + j * split.head_dim * bytes);
      if constexpr (type == KvType::kQ8_0) {
        next_scales.Load(block + KvScaleOffset(split.head_dim, d) + 2 * slot);
      }
    };
    const int begin = sums.seen_begin / S::value_keys * S::value_keys;
    if (begin < sums.seen_end) load(begin);
    for (int key = begin; key < sums.seen_end; key += S::value_keys) {
      KvElements<type, S::vec> now[S::value_keys];
      float v_scale[S::value_keys] = {};
      SIMT_UNROLL
      for (int j = 0; j < S::value_keys; ++j) {
        now[j] = next[j];
        if constexpr (type == KvType::kQ8_0) v_scale[j] = next_scales[j];
      }
      if (key + S::value_keys < sums.seen_end) load(key + S::value_keys);
      if (key >= sums.common_begin && key + S::value_keys <= sums.common_end) {
        sums.template Add<true>(key, now, v_scale);
      } else {
        sums.template Add<false>(key, now, v_scale);
      }
    }
    SIMT_UNROLL
    for (int i = 0; i < S::value_queries; ++i) {
      if (first + i >= queries || sums.begin[i] >= sums.end[i]) continue;
      const QueryState& query = state[first + i];
      float(&acc)[S::vec] = sums.acc[i];
      if (query.first == 0) {
        float before[S::vec];
        ReadFloats(query.acc + d, before);
        SIMT_UNROLL
        for (int e = 0; e < S::vec; ++e) acc[e] = simt::Fma(acc[e], query.take, before[e] * query.keep);
      }
      if (query.last != 0) {
        SIMT_UNROLL
        for (int e = 0; e < S::vec; ++e) acc[e] *= query.finish;
      }
      WriteFloats(acc, query.acc + d);
    }
  }
}

// Grid: units, KV heads.
template <typename S>
SIMT_KERNEL AttendKernel(AttendArgs args) {
  SIMT_SHARED(simt::Vector16, probabilities, S::tile * kProbabilityStride / 4);
  SIMT_SHARED(QueryState, state, S::tile);
  float* const p = reinterpret_cast<float*>(&probabilities[0]);
  if (args.units_there != nullptr && static_cast<int>(blockIdx.x) >= *args.units_there) return;
  const AttendUnit unit = args.units[blockIdx.x];
  const int queries = unit.rows * unit.heads;
  SplitKeys keys;
  keys.k = args.kv.k + blockIdx.y * args.head_bytes;
  keys.v = args.kv.v + blockIdx.y * args.head_bytes;
  keys.block_bytes = args.kv_heads * args.head_bytes;
  keys.head_dim = args.head_dim;
  const int32_t* const blocks = args.tables.blocks + args.tables.rows[unit.row_begin].table;
  for (int split = unit.split_begin; split < unit.split_end; ++split) {
    keys.blocks = blocks + split * (kAttentionSplit / kKvBlockTokens);
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < queries) SetQuery(args, unit, split, thread, &state[thread]);
    simt::SyncThreads();
    Score<S>(keys, state, queries, args.scale, p);
    simt::SyncThreads();
    Exponentiate<S>(queries, state, p);
    simt::SyncThreads();
    AddValues<S>(keys, state, queries, p);
    simt::SyncThreads();
  }
}

}  // namespace
}  // namespace moepool
