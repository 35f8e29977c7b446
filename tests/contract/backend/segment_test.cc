// TrunkOps::QueueSegment: a layer that comes again and again, as steps of a model have it, against a backend
// that queues every operation by itself.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "tests/contract/backend/backend_contract.h"

namespace moepool {
namespace {

constexpr int kHidden = 64;
constexpr int kHeads = 4;
constexpr int kKvHeads = 2;
constexpr int kHeadDim = 32;
constexpr int kQkv = (kHeads + 2 * kKvHeads) * kHeadDim;
constexpr int kChosen = 2;
constexpr int kFfn = 32;
constexpr int kMostRows = 80;
constexpr int kBlocks = 120;
constexpr int kAngles = kHeadDim / 2;

// Rows [begin, end) of a sequence, whose keys before `begin` are whatever lies in its blocks.
struct Rows {
  int begin;
  int end;
};
using Step = std::vector<Rows>;

ModelConfig Config(int experts) {
  ModelConfig config;
  config.experts = experts;
  config.experts_per_token = kChosen;
  config.gate = {GateKind::kSoftmax, true, 1.0f, 0.01f};
  return config;
}

// What a step leaves.
struct Left {
  std::vector<float> x;
  std::vector<SelectedExpert> selected;
  std::vector<std::byte> cache;
  std::vector<uint8_t> faults;
};

::testing::AssertionResult Same(const Left& a, const Left& b) {
  // Rows at fault may hold anything.
  std::vector<float> x[2] = {a.x, b.x};
  for (size_t row = 0; row < a.faults.size(); ++row) {
    for (auto& values : x) {
      if (a.faults[row] != 0) std::fill_n(&values[row * kHidden], kHidden, 0.0f);
    }
  }
  if (a.faults != b.faults) return ::testing::AssertionFailure() << "faults";
  if (a.selected != b.selected) return ::testing::AssertionFailure() << "choices";
  if (a.cache != b.cache) return ::testing::AssertionFailure() << "cache";
  return SameFloats(x[0], x[1]);
}

// A layer with all its buffers on one backend. Two of the same seed have the same weights and cache.
class Layer {
 public:
  Layer(Backend* backend, uint64_t seed, int experts = 6) : backend_(*backend), config_(Config(experts)) {
    x_ = Floats(kMostRows * kHidden);
    qkv_ = Floats(kMostRows * kQkv);
    logits_ = Floats(int64_t{kMostRows} * experts);
    shared_logits_ = Floats(kMostRows);
    selected_ = Floats(kMostRows * kChosen * 2);
    norm_ = Floats(kHidden);
    const std::vector<float> norm = Normal(kHidden, seed);
    norm_->Write(0, std::as_bytes(std::span(norm)));
    const uint64_t half = uint64_t{kBlocks} * kKvHeads * KvHeadBlockBytes(KvType::kF16, kHeadDim);
    cache_ = Floats(static_cast<int64_t>(2 * half / sizeof(float)));
    // Halves below 2.
    std::vector<uint16_t> keys(half);
    std::mt19937_64 rng(seed);
    for (uint16_t& key : keys) key = static_cast<uint16_t>(rng() & 0xbfff);
    cache_->Write(0, std::as_bytes(std::span(keys)));
    kv_ = {KvType::kF16, cache_->data(), cache_->data() + half};
    q_ = Load(kQkv, kHidden, ++seed);
    o_ = Load(kHidden, kHeads * kHeadDim, ++seed);
    gate_ = Load(experts, kHidden, ++seed);
    shared_gate_ = Load(1, kHidden, ++seed);
    for (int e = 0; e <= experts; ++e) {
      ExpertWeights& expert = *experts_.emplace_back(std::make_unique<ExpertWeights>());
      expert.gate = Load(kFfn, kHidden, ++seed);
      expert.up = Load(kFfn, kHidden, ++seed);
      expert.down = Load(kHidden, kFfn, ++seed);
    }
    MakeSets();
  }

  // Memory for the largest step, so that none of it moves.
  void Reserve() {
    ModelConfig config = config_;
    config.hidden = kHidden;
    config.heads = kHeads;
    config.kv_heads = kKvHeads;
    config.head_dim = kHeadDim;
    config.rope.dims = kHeadDim;
    config.context_tokens = kBlocks * kKvBlockTokens;
    const LargestCall call = {.rows = kMostRows, .experts_per_row = kChosen, .ffn = kFfn};
    EXPECT_TRUE(backend_.ReserveTrunk(config, call).ok());
    EXPECT_TRUE(backend_.ReserveExperts(kHidden, call).ok());
  }

  // The sets anew, of the same experts. What was given to segments before ends.
  void MakeSets() {
    std::vector<const ExpertWeights*> pointers;
    for (const auto& expert : experts_) pointers.push_back(expert.get());
    set_ = nullptr;
    shared_set_ = nullptr;
    set_ = backend_.Experts().MakeSet(std::span(pointers).first(experts_.size() - 1)).value();
    shared_set_ = backend_.Experts().MakeSet(std::span(pointers).last(1)).value();
  }

  // Rows of `step` with random values of `seed`, one of them not a number where bad_row says so, through the
  // layer, as the segment of `number`; 0: none.
  Left Run(const Step& step, uint64_t seed, uint64_t number, int micro_batch = 0, int first_row = 0,
           int bad_row = -1) {
    std::mt19937_64 rng(seed);
    std::vector<std::vector<int32_t>> tables;
    std::vector<int32_t> free(kBlocks);
    for (int32_t i = 0; i < kBlocks; ++i) free[static_cast<size_t>(i)] = i;
    std::shuffle(free.begin(), free.end(), rng);
    std::vector<int32_t> positions;
    for (const Rows& rows : step) {
      auto& table = tables.emplace_back();
      for (int b = 0; b <= (rows.end - 1) / kKvBlockTokens; ++b) {
        table.push_back(free.back());
        free.pop_back();
      }
      for (int position = rows.begin; position < rows.end; ++position) positions.push_back(position);
    }
    std::vector<const int32_t*> table_of;
    for (size_t s = 0; s < step.size(); ++s) {
      table_of.insert(table_of.end(), static_cast<size_t>(step[s].end - step[s].begin), tables[s].data());
    }
    std::vector<float> cos, sin;
    for (const int32_t position : positions) {
      for (int i = 0; i < kAngles; ++i) {
        cos.push_back(std::cos(static_cast<float>(position) / static_cast<float>(1 + i)));
        sin.push_back(std::sin(static_cast<float>(position) / static_cast<float>(1 + i)));
      }
    }
    rows_ = static_cast<int>(positions.size());
    first_row_ = first_row;
    std::vector<float> values = Normal(static_cast<size_t>(rows_) * kHidden, seed);
    if (bad_row >= 0) values[static_cast<size_t>(bad_row) * kHidden + 3] = std::nanf("");
    x_->Write(static_cast<size_t>(first_row) * kHidden * sizeof(float), std::as_bytes(std::span(values)));
    faults_.assign(static_cast<size_t>(rows_), 0);
    AttentionBatch batch = {.rows = rows_,
                            .position = positions.data(),
                            .block_table = table_of.data(),
                            .cos = cos.data(),
                            .sin = sin.data(),
                            .step = ++steps_,
                            .micro_batch = micro_batch};
    const auto queue = [&] {
      ++queued_;
      QueueAll(batch);
    };
    if (number == 0) {
      queue();
    } else {
      const AttentionShape shape = Shape();
      backend_.Trunk().QueueSegment({.number = number,
                                     .rows = rows_,
                                     .first_row = first_row,
                                     .shape = &shape,
                                     .batch = &batch,
                                     .faults = faults_},
                                    queue);
    }
    // The caller's arrays are its own again.
    std::fill(positions.begin(), positions.end(), -1);
    std::fill(cos.begin(), cos.end(), std::nanf(""));
    return Fetch();
  }

  int queued() const { return queued_; }  // by calls of `queue`

 private:
  Left Fetch() {
    std::vector<Fetched> wanted = {
        {X(), static_cast<size_t>(rows_) * kHidden * sizeof(float)},
        {Selected(), static_cast<size_t>(rows_) * kChosen * sizeof(SelectedExpert)},
        {cache_->data(), cache_->bytes()}};
    backend_.Trunk().Fetch(wanted);
    const auto* const selected = static_cast<const SelectedExpert*>(wanted[1].host);
    const auto* const cache = static_cast<const std::byte*>(wanted[2].host);
    return {{wanted[0].f32(), wanted[0].f32() + static_cast<size_t>(rows_) * kHidden},
            {selected, selected + static_cast<size_t>(rows_) * kChosen},
            {cache, cache + cache_->bytes()},
            faults_};
  }
  static std::unique_ptr<Buffer> Floats(Backend* backend, int64_t n) {
    return DeviceRows::Floats(backend, n);
  }
  std::unique_ptr<Buffer> Floats(int64_t n) { return Floats(&backend_, n); }
  std::unique_ptr<Matrix> Load(int64_t rows, int64_t cols, uint64_t seed) {
    return LoadInto(&backend_, MakeFile(DType::kQ8_0, rows, cols, seed, 0.2f));
  }
  static AttentionShape Shape() {
    return {.heads = kHeads, .kv_heads = kKvHeads, .head_dim = kHeadDim, .rope_dims = kHeadDim};
  }
  float* X() { return x_->f32() + first_row_ * kHidden; }
  SelectedExpert* Selected() {
    return reinterpret_cast<SelectedExpert*>(selected_->data()) + first_row_ * kChosen;
  }
  // The rows' forms of `rows`, which are a buffer's from its first on.
  Activations From(const DeviceRows& all) const {
    Activations rows = all.view;
    rows.rows = rows_;
    rows.f32 += first_row_ * rows.cols;
    rows.q += first_row_ * rows.cols;
    rows.scale += first_row_ * rows.cols / 32;
    return rows;
  }

  void QueueAll(const AttentionBatch& batch) {
    TrunkOps& trunk = backend_.Trunk();
    const NormWeights norm = {.weight = norm_->f32(), .eps = 1e-5f};
    Activations normed = From(normed_);
    Activations attended = From(attended_);
    float* const qkv = qkv_->f32() + first_row_ * kQkv;
    float* const logits = logits_->f32() + first_row_ * config_.experts;
    float* const shared_logits = shared_logits_->f32() + first_row_;
    trunk.Norm(norm, X(), &normed, faults_);
    trunk.MatMul(*q_, normed, nullptr, nullptr, qkv, kQkv);
    trunk.Attention(Shape(), batch, kv_, qkv, attended.f32);
    trunk.Quantize(&attended, faults_);
    trunk.MatMul(*o_, attended, nullptr, X(), X(), kHidden);
    trunk.Norm(norm, X(), &normed, faults_);
    const Product gates[] = {{gate_.get(), nullptr, nullptr, logits, config_.experts},
                             {shared_gate_.get(), nullptr, nullptr, shared_logits, 1}};
    trunk.MatMuls(gates, normed);
    backend_.Experts().Select(config_, logits, rows_, Selected(), faults_);
    backend_.Experts().RunSelected(*set_, {normed, Selected(), kChosen, shared_set_.get(), shared_logits},
                                   X(), faults_);
  }

  Backend& backend_;
  const ModelConfig config_;
  std::unique_ptr<Buffer> x_, qkv_, logits_, shared_logits_, selected_, norm_, cache_;
  DeviceRows normed_{&backend_, kMostRows, kHidden};
  DeviceRows attended_{&backend_, kMostRows, kHeads* kHeadDim};
  KvLayer kv_;
  std::unique_ptr<Matrix> q_, o_, gate_, shared_gate_;
  std::vector<std::unique_ptr<ExpertWeights>> experts_;  // the shared one last
  std::unique_ptr<ExpertSet> set_, shared_set_;
  std::vector<uint8_t> faults_;
  int rows_ = 0;
  int first_row_ = 0;
  static inline uint64_t steps_ = 0;
  int queued_ = 0;
};

class SegmentTest : public BackendContract {
 protected:
  // Whether this backend replays; then it has replayed `replayed` segments by now.
  void ExpectReplayed(uint64_t replayed) {
    const bool replays = backend_->Name() == "cuda";
    EXPECT_EQ(backend_->Segments().replayed, replays ? replayed : 0u);
  }
  std::unique_ptr<Backend> reference_ = Reference();
};
INSTANTIATE_TEST_SUITE_P(Backends, SegmentTest, ::testing::ValuesIn(BackendCases()), CaseName);

// Positions, blocks, choices and contexts change; so do the units of attention that there are, and the
// splits, across every power of two.
TEST_P(SegmentTest, EachStepIsWhatItsOperationsAre) {
  Layer layer(backend_.get(), kTestSeed);
  layer.Reserve();
  Layer expected(reference_.get(), kTestSeed);
  const std::vector<Step> steps = {{{3, 4}, {250, 251}, {31, 32}},
                                   {{4, 5}, {251, 252}, {32, 33}},
                                   {{5, 6}, {254, 255}, {90, 91}},
                                   {{200, 201}, {255, 256}, {100, 101}},  // replayed
                                   {{6, 7}, {256, 257}, {33, 34}},
                                   {{7, 8}, {257, 258}, {34, 35}},  // one of two splits
                                   {{700, 701}, {258, 259}, {35, 36}},
                                   {{701, 702}, {259, 260}, {36, 37}},  // and one of three
                                   {{8, 9}, {260, 261}, {37, 38}},
                                   {{9, 10}, {12, 13}, {38, 39}},  // as at first
                                   {{10, 30}},
                                   {{30, 50}},
                                   {{50, 70}},
                                   {{3, 4}, {250, 251}},
                                   {{0, 65}},
                                   {{65, 130}},
                                   {{130, 195}},
                                   {{3, 4}, {250, 251}, {31, 32}}};
  uint64_t seed = kTestSeed;
  for (size_t i = 0; i < steps.size(); ++i) {
    ++seed;
    ASSERT_TRUE(Same(layer.Run(steps[i], seed, 5), expected.Run(steps[i], seed, 0))) << "step " << i;
  }
  // Of three rows with one split each the steps 2, 3, 9 and 17, with one of two splits 8; of 20 rows 12.
  ExpectReplayed(6);
  EXPECT_EQ(static_cast<size_t>(layer.queued()) + backend_->Segments().replayed, steps.size());
}

TEST_P(SegmentTest, RowsAtFaultAreThoseOfTheirStep) {
  Layer layer(backend_.get(), kTestSeed);
  Layer expected(reference_.get(), kTestSeed);
  const Step step = {{40, 41}, {30, 31}, {20, 21}};
  uint64_t seed = kTestSeed;
  for (const int bad_row : {-1, -1, -1, 1, -1, 2, 0, 0}) {
    ++seed;
    const Left left = layer.Run(step, seed, 5, 0, 0, bad_row);
    std::vector<uint8_t> faults(3);
    if (bad_row >= 0) faults[static_cast<size_t>(bad_row)] = 1;
    EXPECT_EQ(left.faults, faults);
    ASSERT_TRUE(Same(left, expected.Run(step, seed, 0, 0, 0, bad_row))) << bad_row;
  }
  ExpectReplayed(6);
}

// Segments of unlike numbers, and two halves of the same buffers whose layers take turns.
TEST_P(SegmentTest, SegmentsAreNotTakenForOneAnother) {
  Layer layers[] = {{backend_.get(), kTestSeed}, {backend_.get(), kTestSeed + 100, 9}};
  Layer expected[] = {{reference_.get(), kTestSeed}, {reference_.get(), kTestSeed + 100, 9}};
  const Step halves[] = {{{40, 41}, {30, 31}}, {{50, 51}, {19, 20}}};
  uint64_t seed = kTestSeed;
  for (int round = 0; round < 3; ++round) {
    for (size_t half = 0; half < 2; ++half) {
      for (size_t i = 0; i < 2; ++i) {
        ++seed;
        const int index = static_cast<int>(half);
        const Left left = layers[i].Run(halves[half], seed, 5 + i, index, 2 * index);
        ASSERT_TRUE(Same(left, expected[i].Run(halves[half], seed, 0, index, 2 * index)))
            << "round " << round << ", half " << half << ", layer " << i;
      }
    }
  }
  ExpectReplayed(4);
}

// A set that ends takes the recordings that have it along.
TEST_P(SegmentTest, SetsAreMadeAnew) {
  Layer layer(backend_.get(), kTestSeed);
  Layer expected(reference_.get(), kTestSeed);
  const Step step = {{40, 41}, {30, 31}};
  uint64_t seed = kTestSeed;
  for (int round = 0; round < 9; ++round) {
    ++seed;
    if (round % 3 == 0) layer.MakeSets();
    ASSERT_TRUE(Same(layer.Run(step, seed, 5), expected.Run(step, seed, 0))) << round;
  }
  ExpectReplayed(3);
}

// What operations work in grows when a larger call comes.
TEST_P(SegmentTest, LargerCallsComeBetween) {
  Layer layer(backend_.get(), kTestSeed);
  Layer expected(reference_.get(), kTestSeed);
  const Step step = {{40, 41}, {30, 31}};
  uint64_t seed = kTestSeed;
  for (int round = 0; round < 3; ++round) {
    for (int again = 0; again < 3; ++again) {
      ++seed;
      ASSERT_TRUE(Same(layer.Run(step, seed, 5), expected.Run(step, seed, 0))) << round;
    }
    const Step larger = {{0, 20 + 30 * round}};
    ++seed;
    ASSERT_TRUE(Same(layer.Run(larger, seed, 0), expected.Run(larger, seed, 0))) << round;
  }
  ExpectReplayed(3);
}

}  // namespace
}  // namespace moepool
