#include "gateway/admission.h"

#include "gateway/retry_after.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using testing::HasSubstr;

class AdmissionTest : public testing::Test {
 protected:
  std::unique_ptr<Admission> Make(const AdmissionLimits& limits) {
    return std::make_unique<Admission>(limits, [this] { return now_; });
  }
  // A request that is admitted, runs for `seconds` and ends.
  void RunOne(Admission* admission, int64_t tokens, double seconds) {
    auto ticket = admission->Admit();
    ASSERT_TRUE(ticket.ok());
    ASSERT_TRUE((*ticket)->TakeTokens(tokens).ok());
    (*ticket)->Start();
    now_ += absl::Seconds(seconds);
  }
  static std::string Message(const absl::Status& status) { return std::string(status.message()); }

  absl::Time now_ = absl::FromUnixSeconds(1'000'000);
};

TEST_F(AdmissionTest, RequestsInFlight) {
  const auto admission = Make({.max_requests = 3});
  auto first = *admission->Admit();
  auto second = *admission->Admit(2);
  EXPECT_EQ(admission->in_flight(), 3);
  const auto refused = admission->Admit();
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(refused.status()), HasSubstr("3 requests are in flight, and this gateway takes 3"));
  second.reset();
  EXPECT_TRUE(admission->Admit(2).ok());
  EXPECT_FALSE(admission->Admit(3).ok());
  EXPECT_EQ(admission->in_flight(), 1);
  EXPECT_EQ(admission->max_places(), 3);
}

TEST_F(AdmissionTest, QueuedUntilTheFirstToken) {
  const auto admission = Make({.max_requests = 10, .max_queue_requests = 2});
  EXPECT_EQ(admission->max_places(), 2);
  auto first = *admission->Admit();
  auto second = *admission->Admit();
  const auto refused = admission->Admit();
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(refused.status()), HasSubstr("2 requests wait for their first token"));
  first->Start();
  first->Start();
  EXPECT_EQ(admission->load().running, 1);
  EXPECT_EQ(admission->load().queued, 1);
  auto third = *admission->Admit();
  EXPECT_FALSE(admission->Admit().ok());
  second.reset();
  EXPECT_TRUE(admission->Admit().ok());
  first.reset();
  third.reset();
  EXPECT_EQ(admission->in_flight(), 0);
}

TEST_F(AdmissionTest, TokensInFlight) {
  const auto admission = Make({.max_requests = 10, .max_queue_tokens = 100});
  auto first = *admission->Admit();
  const absl::Status large = first->TakeTokens(101);
  EXPECT_EQ(large.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(large), testing::AllOf(HasSubstr("101 tokens"), HasSubstr("takes 100")));
  EXPECT_TRUE(first->TakeTokens(60).ok());
  auto second = *admission->Admit();
  const absl::Status refused = second->TakeTokens(41);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(refused),
              testing::AllOf(HasSubstr("60 tokens"), HasSubstr("41 more"), HasSubstr("the 100")));
  EXPECT_TRUE(second->TakeTokens(40).ok());
  // They stay taken while the answer runs.
  first->Start();
  EXPECT_EQ(admission->load().tokens, 100);
  first.reset();
  EXPECT_EQ(admission->load().tokens, 40);
}

TEST_F(AdmissionTest, NoTokenLimit) {
  const auto admission = Make({});
  auto ticket = *admission->Admit();
  EXPECT_TRUE(ticket->TakeTokens(int64_t{1} << 50).ok());
}

TEST_F(AdmissionTest, RetryAfterFollowsTheRateOfTheLastMinute) {
  const auto admission = Make({.max_requests = 1, .max_queue_tokens = 1000});
  for (int i = 0; i < 5; ++i) RunOne(admission.get(), 100, 4);
  const auto running = *admission->Admit();
  EXPECT_EQ(RetryAfterSeconds(admission->Admit().status()), 4);  // one place every four seconds
  // 25 tokens a second.
  ASSERT_TRUE(running->TakeTokens(950).ok());
  EXPECT_EQ(RetryAfterSeconds(running->TakeTokens(51)), 1);
  EXPECT_EQ(RetryAfterSeconds(running->TakeTokens(150)), 4);
  EXPECT_EQ(RetryAfterSeconds(running->TakeTokens(1000)), 38);
}

TEST_F(AdmissionTest, RetryAfterWithoutARate) {
  const auto admission = Make({.max_requests = 1});
  const auto running = *admission->Admit();
  EXPECT_EQ(RetryAfterSeconds(admission->Admit().status()), 1);
  now_ += absl::Seconds(9.5);
  EXPECT_EQ(RetryAfterSeconds(admission->Admit().status()), 10);
  now_ += absl::Hours(1);
  EXPECT_EQ(RetryAfterSeconds(admission->Admit().status()), 60);
}

TEST_F(AdmissionTest, WhatIsOlderThanAMinuteDoesNotCount) {
  const auto admission = Make({.max_requests = 1});
  for (int i = 0; i < 5; ++i) RunOne(admission.get(), 1, 4);
  now_ += absl::Hours(1);
  const auto running = *admission->Admit();
  now_ += absl::Seconds(2);
  EXPECT_EQ(RetryAfterSeconds(admission->Admit().status()), 2);
}

TEST_F(AdmissionTest, TextToBeTokenizedLeavesTheRateAlone) {
  const auto admission = Make({.max_requests = 1});
  for (int i = 0; i < 3; ++i) RunOne(admission.get(), 1, 8);
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(admission->Admit().ok());
  const auto running = *admission->Admit();
  EXPECT_EQ(RetryAfterSeconds(admission->Admit().status()), 8);
}

TEST_F(AdmissionTest, Drained) {
  const auto admission = Make({});
  const auto ticket = *admission->Admit();
  admission->Drain();
  EXPECT_TRUE(admission->draining());
  EXPECT_EQ(admission->Admit().status().code(), absl::StatusCode::kUnavailable);
}

TEST(RetryAfterTest, WithoutATimeGiven) {
  EXPECT_EQ(RetryAfterSeconds(absl::OkStatus()), 0);
  EXPECT_EQ(RetryAfterSeconds(absl::InvalidArgumentError("")), 0);
  EXPECT_EQ(RetryAfterSeconds(absl::UnavailableError("")), 1);
  EXPECT_EQ(RetryAfterSeconds(absl::ResourceExhaustedError("")), 1);
  EXPECT_EQ(RetryAfterSeconds(WithRetryAfter(absl::UnavailableError(""), 17)), 17);
}

}  // namespace
}  // namespace moepool
