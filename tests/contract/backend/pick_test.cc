// TrunkOps::Pick: the ids of PickId, on every device.
#include "common/backend/pick.h"

#include "tests/contract/backend/backend_contract.h"
#include "tests/support/pick_cases.h"

namespace moepool {
namespace {

class PickOpTest : public BackendContract {};
INSTANTIATE_TEST_SUITE_P(Backends, PickOpTest, ::testing::ValuesIn(BackendCases()), CaseName);

// Rows of one size are in one call, several picks of each, in no order.
TEST_P(PickOpTest, EqualsTheReference) {
  const std::vector<PickCase> cases = PickCases(kTestSeed);
  for (size_t begin = 0, end = 0; begin < cases.size(); begin = end) {
    const size_t vocab = cases[begin].logits.size();
    while (end < cases.size() && cases[end].logits.size() == vocab) ++end;
    const auto logits = DeviceRows::Floats(backend_.get(), static_cast<int64_t>((end - begin) * vocab));
    std::vector<PickRow> rows;
    for (size_t i = begin; i < end; ++i) {
      std::copy(cases[i].logits.begin(), cases[i].logits.end(), logits->f32() + (i - begin) * vocab);
      for (const PickParams& params : cases[i].params) {
        rows.push_back({static_cast<int32_t>(i - begin), params});
      }
    }
    std::shuffle(rows.begin(), rows.end(), std::mt19937_64(kTestSeed));
    std::vector<int32_t> ids(rows.size() + 1, -7);
    backend_->Trunk().Pick(rows, static_cast<int64_t>(vocab), logits->f32(), ids.data());
    backend_->Trunk().Fetch({});
    EXPECT_EQ(ids.back(), -7);
    for (size_t i = 0; i < rows.size(); ++i) {
      const PickParams& p = rows[i].params;
      const std::vector<float>& row = cases[begin + static_cast<size_t>(rows[i].row)].logits;
      ASSERT_EQ(ids[i], PickId(p, row))
          << vocab << " logits, row " << rows[i].row << ", temperature " << p.temperature << " top_k "
          << p.top_k << " top_p " << p.top_p << " min_p " << p.min_p << " random " << p.random;
      ASSERT_EQ(std::memcmp(row.data(), logits->f32() + rows[i].row * static_cast<int64_t>(vocab),
                            vocab * sizeof(float)),
                0);
    }
  }
}

TEST_P(PickOpTest, NoRowsAreNoWork) { backend_->Trunk().Pick({}, 10, nullptr, nullptr); }

}  // namespace
}  // namespace moepool
