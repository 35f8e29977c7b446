// The id that a row of logits gives (common/backend/pick.h). A block of threads has a row and goes through it
// several times: for its best, for the last candidates that top_k and top_p keep, and for the one picked.
// Where these are is found digit by digit in the bits of their ranks. All sums are of integers, so that the
// order in which threads add does not show.
#include "common/kernels/cuda/launches.h"
#include "common/kernels/cuda/numerics.cuh"

namespace moepool {
namespace {

constexpr int kPickThreads = 512;
constexpr int kPickWarps = kPickThreads / simt::kWarp;
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kRankBits = 64;
constexpr int kIdBits = 32;                                         // of a rank, below those of the logit
constexpr uint64_t kUnusable = ~uint64_t{0};                        // rank of NaN and +inf
constexpr uint64_t kLeastFinite = uint64_t{0x00800000} << kIdBits;  // no rank of -inf is as high

// Better candidates have higher ranks.
SIMT_DEVICE uint64_t RankOf(float logit, int id) {
  if (!(logit < simt::BitsFloat(0x7f800000u))) return kUnusable;
  const uint32_t bits = simt::FloatBits(logit + 0.0f);  // zeros are equal: both are +0 now
  const uint32_t ordered = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return uint64_t{ordered} << kIdBits | static_cast<uint32_t>(~id);
}
SIMT_DEVICE int IdOf(uint64_t rank) { return static_cast<int>(~static_cast<uint32_t>(rank)); }
SIMT_DEVICE float LogitOf(uint64_t rank) {
  const uint32_t ordered = static_cast<uint32_t>(rank >> kIdBits);
  return simt::BitsFloat(ordered >> 31 != 0 ? ordered ^ 0x80000000u : ~ordered);
}

// body(logit, id) for ids begin + first, begin + first + step and so on, and perhaps for some past the end
// with -inf.
template <typename Body>
SIMT_DEVICE void ForLogits(const float* logits, int begin, int end, int first, int step, const Body& body) {
  constexpr int ahead = 8;  // loads under way
  for (int i = begin + first; i < end; i += ahead * step) {
    float x[ahead];
    SIMT_UNROLL
    for (int j = 0; j < ahead; ++j) {
      x[j] = i + j * step < end ? logits[i + j * step] : simt::BitsFloat(0xff800000u);
    }
    SIMT_UNROLL
    for (int j = 0; j < ahead; ++j) body(x[j], i + j * step);
  }
}

// What a round of the search found.
struct Digit {
  int32_t digit;    // -1: all bins hold less than was looked for
  uint64_t bin;     // what its bin holds
  uint64_t enough;  // what of it is wanted: that and the bins above are what was looked for
};

struct PickShared {
  uint64_t bins[kDigits];
  uint64_t parts[kPickWarps];
  Digit found;
};

struct PickedRow {
  const float* logits;
  int vocab;
  PickParams params;
  float best;
  int thread;
  PickShared* shared;

  SIMT_DEVICE int lane() const { return thread % simt::kWarp; }
  SIMT_DEVICE int warp() const { return thread / simt::kWarp; }
  SIMT_DEVICE float Weight(float logit) const {
    return DeviceExp(simt::Divide(logit - best, params.temperature));
  }
  SIMT_DEVICE static uint64_t InUnits(float weight) { return static_cast<uint64_t>(weight * kShareOfBest); }
};

// parts[warp] <- the sum over the warp's lanes. All threads of the block call it, and may read when it is
// done.
SIMT_DEVICE void SumWarps(const PickedRow& row, uint64_t value) {
  for (int m = simt::kWarp / 2; m > 0; m /= 2) value += simt::ShuffleXor(simt::kAllLanes, value, m);
  simt::SyncThreads();  // nobody reads former parts any more
  if (row.lane() == 0) row.shared->parts[row.warp()] = value;
  simt::SyncThreads();
}
SIMT_DEVICE uint64_t SumOfParts(const PickedRow& row) {
  uint64_t sum = 0;
  for (int w = 0; w < kPickWarps; ++w) sum += row.shared->parts[w];
  return sum;
}

// The highest rank of the row.
SIMT_DEVICE uint64_t BestRank(const PickedRow& row) {
  uint64_t best = 0;
  ForLogits(row.logits, 0, row.vocab, row.thread, kPickThreads, [&](float x, int id) {
    const uint64_t rank = RankOf(x, id);
    best = rank > best ? rank : best;
  });
  for (int m = simt::kWarp / 2; m > 0; m /= 2) {
    const uint64_t other = simt::ShuffleXor(simt::kAllLanes, best, m);
    best = other > best ? other : best;
  }
  if (row.lane() == 0) row.shared->parts[row.warp()] = best;
  simt::SyncThreads();
  for (int w = 0; w < kPickWarps; ++w) best = row.shared->parts[w] > best ? row.shared->parts[w] : best;
  return best;
}

// The greatest digit with which the bins from the top hold `enough`. One warp calls it: each lane has 8 bins,
// the first lane the highest.
SIMT_DEVICE void FindDigit(const PickedRow& row, uint64_t enough) {
  constexpr int each = kDigits / simt::kWarp;
  const int lane = row.lane();
  const int top = kDigits - 1 - lane * each;
  uint64_t own = 0;
  for (int i = 0; i < each; ++i) own += row.shared->bins[top - i];
  uint64_t upto = own;  // from the top through this lane's
  for (int apart = 1; apart < simt::kWarp; apart *= 2) {
    const uint64_t other = simt::ShuffleUp(simt::kAllLanes, upto, apart);
    if (lane >= apart) upto += other;
  }
  if (lane == simt::kWarp - 1 && upto < enough) row.shared->found.digit = -1;
  if (upto < enough || upto - own >= enough) return;
  uint64_t left = enough - (upto - own);
  int digit = top;
  while (row.shared->bins[digit] < left) left -= row.shared->bins[digit--];
  row.shared->found = {digit, row.shared->bins[digit], left};
}

// The highest rank such that the candidates of it and above hold `enough`: candidates counted, or their
// shares. Only those of at least `floor` are looked at, which is returned where all of them hold less.
template <bool kCounted>
SIMT_DEVICE uint64_t LastKept(const PickedRow& row, uint64_t floor, uint64_t enough) {
  uint64_t* const bins = row.shared->bins;
  uint64_t prefix = 0;
  uint64_t known = 0;  // its bits
  for (int shift = kRankBits - kDigitBits;; shift -= kDigitBits) {
    for (int i = row.thread; i < kDigits; i += kPickThreads) bins[i] = 0;
    simt::SyncThreads();
    ForLogits(row.logits, 0, row.vocab, row.thread, kPickThreads, [&](float x, int id) {
      const uint64_t rank = RankOf(x, id);
      if (rank < floor || (rank & known) != prefix) return;
      const uint64_t share = kCounted ? 1 : PickedRow::InUnits(row.Weight(x));
      if (share > 0) simt::AtomicAdd(&bins[rank >> shift & (kDigits - 1)], share);
    });
    simt::SyncThreads();
    if (row.warp() == 0) FindDigit(row, enough);
    simt::SyncThreads();
    const Digit found = row.shared->found;
    if (found.digit < 0) return floor;
    prefix |= static_cast<uint64_t>(found.digit) << shift;
    known |= uint64_t{kDigits - 1} << shift;
    enough = found.enough;
    if (!kCounted && shift == kIdBits) {  // from here on all have one logit
      const uint64_t share = PickedRow::InUnits(row.Weight(LogitOf(prefix)));
      enough = (enough + share - 1) / share * share;
    }
    if (shift == 0 || found.bin == enough) return prefix > floor ? prefix : floor;
  }
}

// ceil(top_p * the sum of shares / 2^64).
SIMT_DEVICE uint64_t EnoughShares(const PickedRow& row, uint64_t floor) {
  uint64_t sum = 0;
  ForLogits(row.logits, 0, row.vocab, row.thread, kPickThreads, [&](float x, int id) {
    if (RankOf(x, id) >= floor) sum += PickedRow::InUnits(row.Weight(x));
  });
  SumWarps(row, sum);
  const uint64_t total = SumOfParts(row);
  const uint64_t rest = row.params.top_p * total;
  return simt::MultiplyHigh(row.params.top_p, total) + (rest != 0 ? 1 : 0);
}

// Step 4 of PickParams: each warp sums a stretch of the ids, and the one in which the sum goes past the
// random fraction is shared out again, down to a single id.
SIMT_DEVICE int PickShare(const PickedRow& row, uint64_t floor) {
  uint64_t left = 0;
  int begin = 0;
  int end = row.vocab;
  for (bool first = true; end - begin > 1; first = false) {
    const int each = (end - begin + kPickWarps - 1) / kPickWarps;
    const int from = begin + row.warp() * each;
    const int to = from + each < end ? from + each : end;
    uint64_t sum = 0;
    ForLogits(row.logits, from, to, row.lane(), simt::kWarp, [&](float x, int id) {
      if (RankOf(x, id) < floor) return;
      const float weight = row.Weight(x);
      if (weight >= row.params.min_p) sum += PickedRow::InUnits(weight);
    });
    SumWarps(row, sum);
    if (first) left = simt::MultiplyHigh(row.params.random, SumOfParts(row));
    int w = 0;
    while (left >= row.shared->parts[w]) left -= row.shared->parts[w++];
    begin += w * each;
    end = begin + each < end ? begin + each : end;
  }
  return begin;
}

// A block of threads a row.
SIMT_KERNEL PickIds(PickArgs args) {
  SIMT_SHARED(PickShared, shared, 1);
  const PickRow wanted = args.rows[blockIdx.x];
  PickedRow row;
  row.logits = args.logits + static_cast<int64_t>(wanted.row) * args.vocab;
  row.vocab = args.vocab;
  row.params = wanted.params;
  row.thread = static_cast<int>(threadIdx.x);
  row.shared = &shared[0];
  const uint64_t best = BestRank(row);
  int id = IdOf(best);
  if (best < kLeastFinite || best == kUnusable) {
    id = -1;
  } else if (row.params.temperature > 0) {
    row.best = LogitOf(best);
    uint64_t floor = kLeastFinite;
    if (row.params.top_k > 0) floor = LastKept<true>(row, floor, static_cast<uint64_t>(row.params.top_k));
    if (row.params.top_p > 0) floor = LastKept<false>(row, floor, EnoughShares(row, floor));
    id = PickShare(row, floor);
  }
  if (row.thread == 0) args.ids[blockIdx.x] = id;
}

}  // namespace

namespace SIMT_TARGET {

void LaunchPick(const PickArgs& args, void* stream) {
  if (args.count == 0) return;
  simt::Start(PickIds, {.grid_x = static_cast<uint32_t>(args.count), .threads = kPickThreads}, stream, args);
}

}  // namespace SIMT_TARGET
}  // namespace moepool
