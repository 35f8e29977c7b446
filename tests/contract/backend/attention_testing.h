// What the attention suites share: sequences of random rows, a cache that can be decoded and poisoned, steps.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "tests/contract/backend/backend_contract.h"

namespace moepool {

struct Setup {
  AttentionShape shape;
  KvType type = KvType::kF16;
  int length = 0;
};

inline int RowFloats(const AttentionShape& s) { return (s.heads + 2 * s.kv_heads) * s.head_dim; }

// A sequence with its q, k, v [length, RowFloats] and rotary tables, and a cache in which its blocks are
// scattered.
class Sequence {
 public:
  Sequence(const Setup& setup, uint64_t seed)
      : setup_(setup), qkv_(Normal(static_cast<size_t>(setup.length * RowFloats(setup.shape)), seed)) {
    for (int position = 0; position < setup.length; ++position) {
      for (int i = 0; i < setup.shape.rope_dims / 2; ++i) {
        const double angle = position * std::pow(10000.0, -2.0 * i / setup.shape.rope_dims);
        cos_.push_back(static_cast<float>(std::cos(angle)));
        sin_.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }
  const Setup& setup() const { return setup_; }
  const std::vector<float>& qkv() const { return qkv_; }
  const std::vector<float>& cos() const { return cos_; }
  const std::vector<float>& sin() const { return sin_; }
  void Set(int position, int i, float value) { qkv_[position * RowFloats(setup_.shape) + i] = value; }

 private:
  Setup setup_;
  std::vector<float> qkv_, cos_, sin_;
};

inline constexpr KvType kKvTypes[] = {KvType::kF16, KvType::kBF16, KvType::kF32, KvType::kQ8_0};
inline constexpr std::byte kPoison{0xff};  // NaN as f16, bf16 and f32, and in the scales of Q8_0

class CacheMemory {
 public:
  CacheMemory(Backend* backend, const AttentionShape& shape, KvType type, int blocks, std::byte fill)
      : shape_(shape), head_bytes_(KvHeadBlockBytes(type, shape.head_dim)) {
    for (std::unique_ptr<Buffer>* half : {&k_, &v_}) {
      *half = DeviceRows::Floats(backend, blocks * block_bytes() / 4);
      std::fill_n((*half)->data(), blocks * block_bytes(), fill);
    }
    layer = {type, k_->data(), v_->data()};
  }

  void PoisonBlock(int32_t block) {
    std::fill_n(layer.k + block * block_bytes(), block_bytes(), kPoison);
    std::fill_n(layer.v + block * block_bytes(), block_bytes(), kPoison);
  }
  // As stored for KV head g, decoded.
  double K(int32_t block, int slot, int g, int d) const {
    return Value(layer.k + block * block_bytes() + g * head_bytes_, 16 * d + slot, d, slot);
  }
  double V(int32_t block, int slot, int g, int d) const {
    return Value(layer.v + block * block_bytes() + g * head_bytes_, slot * shape_.head_dim + d, d, slot);
  }
  KvLayer layer;

 private:
  int64_t block_bytes() const { return shape_.kv_heads * head_bytes_; }
  static float Half(const std::byte* p) {
    uint16_t half;
    std::memcpy(&half, p, sizeof half);
    return HalfToFloat(half);
  }
  double Value(const std::byte* head, int i, int d, int slot) const {
    if (layer.type == KvType::kF16) return Half(head + 2 * i);
    if (layer.type == KvType::kBF16) {
      uint16_t bits;
      std::memcpy(&bits, head + 2 * i, sizeof bits);
      return BFloat16ToFloat(bits);
    }
    if (layer.type == KvType::kQ8_0) {
      const double scale = Half(head + 16 * shape_.head_dim + 2 * (d / 32 * 16 + slot));
      return scale * static_cast<int8_t>(head[i]);
    }
    float value;
    std::memcpy(&value, head + 4 * i, sizeof value);
    return value;
  }

  const AttentionShape shape_;
  const int64_t head_bytes_;
  std::unique_ptr<Buffer> k_, v_;
};

// Runs rows [begin, end) of each sequence as one step; returns the outputs, sequence after sequence.
inline std::vector<float> Step(Backend* backend, const std::vector<const Sequence*>& sequences,
                               const KvLayer& kv, const std::vector<std::vector<int32_t>>& tables, int begin,
                               int end) {
  const AttentionShape& shape = sequences[0]->setup().shape;
  const int width = RowFloats(shape), half = shape.rope_dims / 2;
  std::vector<float> qkv, cos, sin;
  std::vector<int32_t> position;
  std::vector<const int32_t*> table;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const Sequence& seq = *sequences[s];
    for (int p = begin; p < std::min(end, seq.setup().length); ++p) {
      qkv.insert(qkv.end(), seq.qkv().begin() + p * width, seq.qkv().begin() + (p + 1) * width);
      cos.insert(cos.end(), seq.cos().begin() + p * half, seq.cos().begin() + (p + 1) * half);
      sin.insert(sin.end(), seq.sin().begin() + p * half, seq.sin().begin() + (p + 1) * half);
      position.push_back(p);
      table.push_back(tables[s].data());
    }
  }
  const AttentionBatch batch = {static_cast<int>(position.size()), position.data(), table.data(), cos.data(),
                                sin.data()};
  std::vector<float> out(position.size() * shape.heads * shape.head_dim);
  backend->Trunk().Attention(shape, batch, kv, qkv.data(), out.data());
  return out;
}

inline std::vector<int32_t> Shuffled(int blocks, uint64_t seed) {
  std::vector<int32_t> table(blocks);
  std::iota(table.begin(), table.end(), 0);
  std::mt19937_64 rng(seed);
  std::shuffle(table.begin(), table.end(), rng);
  return table;
}

// The whole sequence in chunks of `chunk` rows; outputs in order of position. Blocks that the window has left
// behind are freed before each chunk: their entries are -1 and what they held is poison.
inline std::vector<float> RunChunks(Backend* backend, const Sequence& seq, int chunk, uint64_t table_seed,
                                    std::byte fill = {}) {
  const AttentionShape& shape = seq.setup().shape;
  const int blocks = seq.setup().length / kKvBlockTokens + 1 + 5;
  CacheMemory cache(backend, shape, seq.setup().type, blocks, fill);
  std::vector<std::vector<int32_t>> tables = {Shuffled(blocks, table_seed)};
  std::vector<float> out;
  for (int begin = 0; begin < seq.setup().length; begin += chunk) {
    const int first_key = shape.window > 0 ? std::max(0, begin - shape.window + 1) : 0;
    for (int b = 0; b < first_key / kKvBlockTokens; ++b) {
      if (tables[0][b] >= 0) cache.PoisonBlock(std::exchange(tables[0][b], -1));
    }
    const std::vector<float> part = Step(backend, {&seq}, cache.layer, tables, begin, begin + chunk);
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

inline AttentionShape Shape(int heads, int kv_heads, int head_dim, RopeKind rope, int rope_dims) {
  AttentionShape s;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.head_dim = head_dim;
  s.rope = rope;
  s.rope_dims = rope_dims;
  s.norm_eps = 1e-6f;
  return s;
}

}  // namespace moepool
