#include "gateway/unread_budget.h"

#include <optional>

#include "gateway/inference.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

TEST(UnreadBudgetTest, OfOneCall) {
  UnreadBudget budget({.call_bytes = 100, .bytes = 1000});
  UnreadBudget::Share share(&budget);
  EXPECT_TRUE(share.Add(60));
  EXPECT_TRUE(share.Add(40));
  EXPECT_FALSE(share.Add(1));
  share.Remove(50);
  EXPECT_EQ(share.bytes(), 51u);
  EXPECT_TRUE(share.Add(49));
}

TEST(UnreadBudgetTest, OfAllCallsTogether) {
  UnreadBudget budget({.call_bytes = 100, .bytes = 150});
  std::optional<UnreadBudget::Share> first(&budget);
  UnreadBudget::Share second(&budget);
  EXPECT_TRUE(first->Add(100));
  EXPECT_TRUE(second.Add(50));
  EXPECT_FALSE(second.Add(1));
  first.reset();
  EXPECT_TRUE(second.Add(1));
}

// Who reads is served, however much the others leave.
TEST(UnreadBudgetTest, ACallThatHasNothingUnreadMayAddOneEvent) {
  UnreadBudget budget({.call_bytes = 100, .bytes = 150});
  UnreadBudget::Share first(&budget), second(&budget), third(&budget);
  EXPECT_TRUE(first.Add(100));
  EXPECT_TRUE(second.Add(50));
  EXPECT_TRUE(third.Add(10));
  EXPECT_FALSE(third.Add(10));
}

TEST(UnreadBytesTest, CountsAllThatAnEventHolds) {
  InferEvent event;
  const size_t empty = UnreadBytes(event);
  event.text = std::string(1000, 'x');
  event.reasoning = std::string(500, 'x');
  event.ids = {1, 2, 3};
  event.tool_calls.push_back({0, "id", "name", std::string(300, 'x')});
  EXPECT_EQ(UnreadBytes(event) - empty, 1000u + 500 + 12 + 6 + 300);
  TokenLogprobEntries entries;
  entries.token.bytes = "abc";
  entries.top.resize(20);
  const size_t before = UnreadBytes(event);
  event.logprobs = {entries};
  EXPECT_GE(UnreadBytes(event) - before, 21 * sizeof(LogprobEntry));
}

}  // namespace
}  // namespace moepool
