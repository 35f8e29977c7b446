// See synthetic_weights.h. Quantised blocks are drawn as codes and scales, not quantised from floats: a
// gigabyte takes about a second. What would give the weights a mean is replaced, or cancelled by minima or by
// scales of either sign.
#include "common/model/synthetic_weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "common/tensor/half.h"

namespace moepool {
namespace {

// Standard deviations of the codes below where d = 1, the jitter of d included.
constexpr float kJitter = 1.0104f;                    // sqrt(E[j^2]) of j uniform in [0.75, 1.25)
constexpr float kDeviationQ4_0 = 4.183f * kJitter;    // -7 to 7, 0 twice
constexpr float kDeviationQ4_1 = 4.610f * kJitter;    // -7.5 to 7.5
constexpr float kDeviationQ5_0 = 9.247f * kJitter;    // -16 to 15
constexpr float kDeviationQ5_1 = 9.233f * kJitter;    // -15.5 to 15.5
constexpr float kDeviationQ8_0 = 73.61f * kJitter;    // -127 to 127, 0 twice
constexpr float kDeviationQ2_K = 11.726f * 1.118f;    // scales 8 to 15 times -1.5 to 1.5
constexpr float kDeviationQ3_K = 24.444f * 2.345f;    // scales 16 to 31 and -17 to -32 times -4 to 3
constexpr float kDeviationQ4_K = 48.37f * 4.610f;     // scales 32 to 63 times -7.5 to 7.5
constexpr float kDeviationQ5_K = 48.37f * 9.233f;     // scales 32 to 63 times -15.5 to 15.5
constexpr float kDeviationQ6_K = 97.17f * 18.48f;     // scales 64 to 127 of either sign times -32 to 31
constexpr float kDeviationIQ4_NL = 67.44f * kJitter;  // the 16 values
constexpr float kDeviationMXFP4 = 2.926f;             // the 16 values, halved; scales have no jitter
constexpr float kUniformDeviation = 0.57735f;         // of [-1, 1)

// The finaliser of splitmix64: a bijection in which every bit of the result depends on every bit of x.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// The random words of one tensor, by number.
class Words {
 public:
  Words(uint64_t seed, std::string_view name) : key_(Mix(seed + 0x9e3779b97f4a7c15u)) {
    for (const char c : name) key_ = Mix(key_ ^ static_cast<uint8_t>(c));
  }
  uint64_t At(uint64_t i) const { return Mix(key_ + (i + 1) * 0x9e3779b97f4a7c15u); }
  void Copy(uint64_t first, int count, uint8_t* out) const {
    for (int i = 0; i < count; ++i) {
      const uint64_t word = At(first + static_cast<uint64_t>(i));
      std::memcpy(out + 8 * i, &word, 8);
    }
  }

 private:
  uint64_t key_;
};

float Uniform(uint64_t word) {  // [-1, 1), 24 bits
  return static_cast<float>(static_cast<int32_t>(word >> 40) - (1 << 23)) * 0x1p-23f;
}

void PutHalf(float value, uint8_t* out) {
  const uint16_t half = FloatToHalf(value);
  std::memcpy(out, &half, 2);
}

float Jitter(uint64_t word) { return 1.0f + 0.25f * Uniform(word); }

// Where codes alone have a mean, scales of either sign cancel it over the blocks.
float Signed(float value, uint64_t word) { return (word & 1) != 0 ? -value : value; }

// A pair of nibbles with each 0 replaced by 8, so that q - 8 is symmetric.
constexpr std::array<uint8_t, 256> kSymmetricNibbles = [] {
  std::array<uint8_t, 256> table{};
  for (int i = 0; i < 256; ++i) {
    const int low = (i & 15) == 0 ? 8 : i & 15;
    const int high = (i >> 4) == 0 ? 8 : i >> 4;
    table[static_cast<size_t>(i)] = static_cast<uint8_t>(low | (high << 4));
  }
  return table;
}();

void BlockQ4_0(const Words& words, uint64_t block, float deviation, uint8_t* out) {
  PutHalf(deviation / kDeviationQ4_0 * Jitter(words.At(3 * block)), out);
  words.Copy(3 * block + 1, 2, out + 2);
  for (int i = 0; i < 16; ++i) out[2 + i] = kSymmetricNibbles[out[2 + i]];
}

void BlockQ4_1(const Words& words, uint64_t block, float deviation, uint8_t* out) {
  const float d = HalfToFloat(FloatToHalf(deviation / kDeviationQ4_1 * Jitter(words.At(3 * block))));
  PutHalf(d, out);
  PutHalf(-7.5f * d, out + 2);
  words.Copy(3 * block + 1, 2, out + 4);
}

// One word serves the scale (bits 40 to 63), its sign (0) and the codes' fifth bits (1 to 32).
void PutFifthBits(uint64_t word, uint8_t* out) {
  const auto bits = static_cast<uint32_t>(word >> 1);
  std::memcpy(out, &bits, 4);
}

void BlockQ5_0(const Words& words, uint64_t block, float deviation, uint8_t* out) {
  const uint64_t word = words.At(3 * block);
  PutHalf(Signed(deviation / kDeviationQ5_0 * Jitter(word), word), out);
  PutFifthBits(word, out + 2);
  words.Copy(3 * block + 1, 2, out + 6);
}

void BlockQ5_1(const Words& words, uint64_t block, float deviation, uint8_t* out) {
  const uint64_t word = words.At(3 * block);
  const float d = HalfToFloat(FloatToHalf(deviation / kDeviationQ5_1 * Jitter(word)));
  PutHalf(d, out);
  PutHalf(-15.5f * d, out + 2);
  PutFifthBits(word, out + 4);
  words.Copy(3 * block + 1, 2, out + 8);
}

void BlockIQ4_NL(const Words& words, uint64_t block, float deviation, uint8_t* out) {
  const uint64_t word = words.At(3 * block);
  PutHalf(Signed(deviation / kDeviationIQ4_NL * Jitter(word), word), out);
  words.Copy(3 * block + 1, 2, out + 2);
}

// Scales are powers of two: the one below the scale wanted or the one above, so often that their mean square
// is that of the scale wanted.
void BlockMXFP4(const Words& words, uint64_t block, float deviation, uint8_t* out) {
  const float scale = deviation / kDeviationMXFP4;
  const int power = std::clamp(std::ilogb(scale), -127, 124);
  const float above = std::ldexp(scale, -power);  // 1 to 2
  const bool next = 0.5f + 0.5f * Uniform(words.At(3 * block)) < (above * above - 1) / 3;
  out[0] = static_cast<uint8_t>(127 + power + (next ? 1 : 0));
  words.Copy(3 * block + 1, 2, out + 1);
}

void BlockQ8_0(const Words& words, uint64_t block, float deviation, uint8_t* out) {
  PutHalf(deviation / kDeviationQ8_0 * Jitter(words.At(5 * block)), out);
  words.Copy(5 * block + 1, 4, out + 2);
  for (int i = 0; i < 32; ++i) out[2 + i] = out[2 + i] == 0x80 ? 0 : out[2 + i];
}

// 8 scales of 6 bits within 32 to 63, and minima equal to them: w = d sc q - dmin m with dmin = d * (half of
// the largest q) has no mean.
void PutSixBitScales(uint64_t codes, uint8_t* packed) {
  for (int g = 0; g < 4; ++g) {
    const auto low = static_cast<uint8_t>(32 | ((codes >> (10 * g)) & 31));       // of group g
    const auto high = static_cast<uint8_t>(32 | ((codes >> (10 * g + 5)) & 31));  // of group g + 4
    packed[g] = packed[g + 4] = static_cast<uint8_t>(low | ((high >> 4) << 6));
    packed[g + 8] = static_cast<uint8_t>((high & 15) * 0x11);
  }
}

void PutScaleAndMin(float scale, float min_factor, uint8_t* out) {
  const float d = HalfToFloat(FloatToHalf(scale));
  PutHalf(d, out);
  PutHalf(min_factor * d, out + 2);
}

void BlockQ4_K(const Words& words, uint64_t block, float deviation, uint8_t* out) {
  PutScaleAndMin(deviation / kDeviationQ4_K, 7.5f, out);
  PutSixBitScales(words.At(17 * block), out + 4);
  words.Copy(17 * block + 1, 16, out + 16);
}

void BlockQ5_K(const Words& words, uint64_t block, float deviation, uint8_t* out) {
  PutScaleAndMin(deviation / kDeviationQ5_K, 15.5f, out);
  PutSixBitScales(words.At(21 * block), out + 4);
  words.Copy(21 * block + 1, 20, out + 16);
}

// Scales and minima of 4 bits, equal as in Q4_K.
void BlockQ2_K(const Words& words, uint64_t block, float deviation, uint8_t* out) {
  for (uint64_t i = 0; i < 2; ++i) {
    const uint64_t scales = (words.At(10 * block + i) & 0x0707070707070707u) | 0x0808080808080808u;
    const uint64_t both = scales | scales << 4;
    std::memcpy(out + 8 * i, &both, 8);
  }
  words.Copy(10 * block + 2, 8, out + 16);
  PutScaleAndMin(deviation / kDeviationQ2_K, 1.5f, out + 80);
}

// The high pairs of bits of a scale are 3 or 0, so that scale - 32 is 16 to 31 or -32 to -17.
void BlockQ3_K(const Words& words, uint64_t block, float deviation, uint8_t* out) {
  words.Copy(14 * block, 13, out);
  const uint64_t word = words.At(14 * block + 13);
  const auto high = static_cast<uint32_t>(word >> 32 & 0x55555555u) * 3;
  std::memcpy(out + 104, &high, 4);
  PutHalf(Signed(deviation / kDeviationQ3_K, word), out + 108);
}

void BlockQ6_K(const Words& words, uint64_t block, float deviation, uint8_t* out) {
  words.Copy(26 * block, 26, out);
  for (int s = 0; s < 16; ++s) {
    const uint8_t code = out[192 + s];
    const int magnitude = 64 | (code & 63);
    out[192 + s] = static_cast<uint8_t>(static_cast<int8_t>((code & 64) != 0 ? -magnitude : magnitude));
  }
  PutHalf(deviation / kDeviationQ6_K, out + 208);
}

using BlockWriter = void (*)(const Words& words, uint64_t block, float deviation, uint8_t* out);

// A loop of its own for each format, so that the block's code is inlined.
template <BlockWriter kWrite>
void Repeat(const Words& words, DType dtype, float deviation, uint64_t first, int64_t count, uint8_t* out) {
  const int block_bytes = Info(dtype).block_bytes;
  for (int64_t i = 0; i < count; ++i, out += block_bytes) {
    kWrite(words, first + static_cast<uint64_t>(i), deviation, out);
  }
}

// Elements of 16 bits, four a word.
template <uint16_t (*kRound)(float)>
void FillSixteenBits(const Words& words, const SynthTensor& tensor, uint64_t first, int64_t count,
                     uint8_t* out) {
  const float step = tensor.deviation / kUniformDeviation * 0x1p-15f;
  const uint64_t end = first + static_cast<uint64_t>(count);
  for (uint64_t i = first; i < end;) {
    uint64_t word = words.At(i / 4) >> (16 * (i % 4));
    const uint64_t word_end = std::min(i / 4 * 4 + 4, end);
    for (; i < word_end; ++i, word >>= 16, out += 2) {
      const uint16_t bits = kRound(tensor.mean + step * static_cast<float>(static_cast<int16_t>(word)));
      std::memcpy(out, &bits, 2);
    }
  }
}

void FillFloats(const Words& words, const SynthTensor& tensor, uint64_t first, int64_t count, uint8_t* out) {
  const float amplitude = tensor.deviation / kUniformDeviation;
  for (int64_t i = 0; i < count; ++i) {
    const float value = tensor.mean + amplitude * Uniform(words.At(first + static_cast<uint64_t>(i)));
    std::memcpy(out + 4 * i, &value, 4);
  }
}

}  // namespace

void FillBlocks(const SynthTensor& tensor, uint64_t seed, int64_t first_block, int64_t count,
                std::byte* out) {
  const Words words(seed, tensor.info.name);
  const DType dtype = tensor.info.dtype;
  const float deviation = tensor.deviation;
  const auto first = static_cast<uint64_t>(first_block);
  auto* bytes = reinterpret_cast<uint8_t*>(out);
  switch (dtype) {
    case DType::kF32:
      return FillFloats(words, tensor, first, count, bytes);
    case DType::kF16:
      return FillSixteenBits<FloatToHalf>(words, tensor, first, count, bytes);
    case DType::kBF16:
      return FillSixteenBits<FloatToBFloat16>(words, tensor, first, count, bytes);
    case DType::kQ4_0:
      return Repeat<BlockQ4_0>(words, dtype, deviation, first, count, bytes);
    case DType::kQ4_1:
      return Repeat<BlockQ4_1>(words, dtype, deviation, first, count, bytes);
    case DType::kQ5_0:
      return Repeat<BlockQ5_0>(words, dtype, deviation, first, count, bytes);
    case DType::kQ5_1:
      return Repeat<BlockQ5_1>(words, dtype, deviation, first, count, bytes);
    case DType::kQ8_0:
      return Repeat<BlockQ8_0>(words, dtype, deviation, first, count, bytes);
    case DType::kQ2_K:
      return Repeat<BlockQ2_K>(words, dtype, deviation, first, count, bytes);
    case DType::kQ3_K:
      return Repeat<BlockQ3_K>(words, dtype, deviation, first, count, bytes);
    case DType::kQ4_K:
      return Repeat<BlockQ4_K>(words, dtype, deviation, first, count, bytes);
    case DType::kQ5_K:
      return Repeat<BlockQ5_K>(words, dtype, deviation, first, count, bytes);
    case DType::kQ6_K:
      return Repeat<BlockQ6_K>(words, dtype, deviation, first, count, bytes);
    case DType::kIQ4_NL:
      return Repeat<BlockIQ4_NL>(words, dtype, deviation, first, count, bytes);
    case DType::kMXFP4:
      return Repeat<BlockMXFP4>(words, dtype, deviation, first, count, bytes);
  }
}

void FillBytes(const SynthTensor& tensor, uint64_t seed, uint64_t offset, std::span<std::byte> out) {
  if (out.empty()) return;
  const auto block_bytes = static_cast<uint64_t>(Info(tensor.info.dtype).block_bytes);
  const uint64_t first = offset / block_bytes;
  const uint64_t last = (offset + out.size() - 1) / block_bytes;
  if (offset % block_bytes == 0 && out.size() % block_bytes == 0) {
    FillBlocks(tensor, seed, static_cast<int64_t>(first), static_cast<int64_t>(last - first + 1), out.data());
    return;
  }
  std::vector<std::byte> blocks((last - first + 1) * block_bytes);
  FillBlocks(tensor, seed, static_cast<int64_t>(first), static_cast<int64_t>(last - first + 1),
             blocks.data());
  std::memcpy(out.data(), blocks.data() + offset % block_bytes, out.size());
}

}  // namespace moepool
