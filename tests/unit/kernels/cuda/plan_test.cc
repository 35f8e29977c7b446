// The plan of a layer's experts that the device makes against the host's (ExpertPairs), under the emulation.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "common/backend/expert_pairs.h"
#include "common/kernels/cuda/cuda_kernels.h"
#include "tests/support/simt/emulated_device.h"

namespace moepool {
namespace {

constexpr uint64_t kSeed = 20261129;

struct Choice {
  int rows;
  int k;
  int experts;
  bool same = false;  // all rows choose the same experts
};

// Rows in which a few experts are wanted by most; each eighth row, from the third on, has none.
std::vector<SelectedExpert> Choose(const Choice& c, std::mt19937_64* rng) {
  std::vector<SelectedExpert> selected;
  std::vector<int32_t> order(static_cast<size_t>(c.experts));
  for (int row = 0; row < c.rows; ++row) {
    if (row % 8 == 2) {
      selected.insert(selected.end(), static_cast<size_t>(c.k), SelectedExpert{-1, 0});
      continue;
    }
    if (row == 0 || !c.same) {
      for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int32_t>(e);
      const size_t kept = order.size() / 4;  // in place
      std::shuffle(order.begin() + static_cast<ptrdiff_t>(kept), order.end(), *rng);
      std::rotate(order.begin(), order.begin() + static_cast<ptrdiff_t>((*rng)() % (kept + 1)), order.end());
      std::sort(order.begin(), order.begin() + c.k);
    }
    for (int i = 0; i < c.k; ++i)
      selected.push_back({order[static_cast<size_t>(i)], static_cast<float>((*rng)() % 97)});
  }
  return selected;
}

template <typename T>
void ExpectEqual(const std::vector<T>& host, const std::vector<T>& device, const char* what) {
  ASSERT_GE(device.size(), host.size()) << what;
  EXPECT_TRUE(std::equal(host.begin(), host.end(), device.begin())) << what;
}

void Compare(const Choice& c, int tile_pairs) {
  SCOPED_TRACE(std::to_string(c.rows) + " rows, " + std::to_string(c.k) + " of " + std::to_string(c.experts));
  std::mt19937_64 rng(kSeed + static_cast<uint64_t>(c.rows * 1000 + c.experts));
  const std::vector<SelectedExpert> selected = Choose(c, &rng);
  std::vector<DeviceExpert> experts(static_cast<size_t>(c.experts));
  for (size_t e = 0; e < experts.size(); ++e) experts[e].down.rows = e % 7 == 3 ? 0 : 32;
  const auto slots = size_t{1} * c.rows * c.k;

  std::vector<int32_t> tile_count(1), pair_row(slots), pair_expert(slots), slot_pair(slots, -2);
  std::vector<float> pair_weight(slots);
  std::vector<int32_t> part_begin(static_cast<size_t>(c.rows) + 1);
  std::vector<PlannedAdd> adds(slots);
  std::vector<AddRange> part_adds(static_cast<size_t>(c.rows));
  std::vector<ExpertTile> tiles(slots);
  EmulatedDevice device({.eager = true});
  device.Kernels().plan(
      {selected.data(), experts.data(), c.rows, c.k, c.experts, tile_pairs, tile_count.data(), tiles.data(),
       pair_row.data(), pair_weight.data(), pair_expert.data(), slot_pair.data(), part_begin.data(),
       adds.data(), part_adds.data()},
      device.Stream());

  ExpertPairs host;
  ExpertBatch batch;
  std::vector<ExpertPart> parts;
  std::vector<ExpertEntry> entries;
  for (int32_t row = 0; row < c.rows; ++row) {
    if (selected[size_t{1} * row * c.k].expert < 0) continue;
    parts.push_back({row, static_cast<int32_t>(entries.size()), static_cast<int32_t>(entries.size()) + c.k});
    for (int i = 0; i < c.k; ++i) {
      const SelectedExpert& s = selected[size_t{1} * row * c.k + i];
      entries.push_back({s.expert, s.weight});
    }
  }
  batch.parts = parts;
  batch.entries = entries;
  host.Plan(static_cast<size_t>(c.experts), batch);
  ExpectEqual(host.row, pair_row, "rows of pairs");
  ExpectEqual(host.weight, pair_weight, "weights of pairs");

  // Slots, and the adds that count from them, by row.
  size_t part = 0;
  for (int32_t row = 0; row < c.rows; ++row) {
    const auto first = size_t{1} * row * c.k;
    EXPECT_EQ(part_begin[static_cast<size_t>(row)], row * c.k);
    if (selected[first].expert < 0) {
      EXPECT_EQ(slot_pair[first], -1);
      continue;
    }
    for (size_t i = 0; i < static_cast<size_t>(c.k); ++i) {
      EXPECT_EQ(slot_pair[first + i], host.slot_pair[static_cast<size_t>(host.part_slot[part]) + i]);
    }
    const std::span<const PlannedAdd> expected = host.Adds(static_cast<int64_t>(part));
    const AddRange range = part_adds[static_cast<size_t>(row)];
    ASSERT_EQ(static_cast<size_t>(range.end - range.begin), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      const PlannedAdd& add = adds[static_cast<size_t>(range.begin) + i];
      EXPECT_EQ(add.dst, expected[i].dst);
      EXPECT_EQ(add.src, expected[i].src);
    }
    ++part;
  }
  EXPECT_EQ(part_begin.back(), static_cast<int32_t>(slots));

  size_t tile = 0;
  for (int32_t e = 0; e < c.experts; ++e) {
    const int32_t begin = host.expert_begin[static_cast<size_t>(e)];
    const int32_t end = host.expert_begin[static_cast<size_t>(e) + 1];
    const bool empty = e % 7 == 3;
    for (int32_t p = begin; p < end; ++p) EXPECT_EQ(pair_expert[static_cast<size_t>(p)], empty ? -1 : e);
    for (int32_t p = begin; p < end && !empty; p += tile_pairs, ++tile) {
      EXPECT_EQ(tiles[tile].expert, e);
      EXPECT_EQ(tiles[tile].begin, p);
      EXPECT_EQ(tiles[tile].end, std::min(end, p + tile_pairs));
    }
  }
  EXPECT_EQ(tile_count[0], static_cast<int32_t>(tile));
}

TEST(CudaPlanTest, IsTheHosts) {
  for (const Choice& c : {Choice{1, 1, 1},
                          {1, 8, 128},
                          {2, 2, 8},
                          {3, 5, 5},
                          {7, 8, 256},
                          {9, 3, 33},
                          {40, 2, 16},
                          {64, 4, 60},
                          {50, 8, 16, true},
                          {33, 16, 16},
                          {300, 7, 40},  // more threads
                          {5, 3, kMostGateExperts}}) {
    for (const int tile_pairs : {8, 32}) Compare(c, tile_pairs);
  }
}

}  // namespace
}  // namespace moepool
