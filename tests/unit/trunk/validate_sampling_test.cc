#include <limits>
#include <string>
#include <vector>

#include "common/trunk/trunk.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

void ExpectRange(double SamplingParams::*field, const char* name, std::initializer_list<double> good,
                 std::initializer_list<double> bad) {
  for (const double value : good) {
    SamplingParams params;
    params.*field = value;
    EXPECT_TRUE(ValidateSampling(params).ok()) << name << " " << value;
  }
  for (const double value : bad) {
    SamplingParams params;
    params.*field = value;
    const absl::Status status = ValidateSampling(params);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name << " " << value;
    EXPECT_EQ(std::string(status.message()).find(name), 0u) << status;
  }
}

TEST(ValidateSamplingTest, Ranges) {
  EXPECT_TRUE(ValidateSampling({}).ok());
  ExpectRange(&SamplingParams::temperature, "temperature", {0, 1e-6, 100}, {-1e-9, kInf, kNan});
  ExpectRange(&SamplingParams::top_p, "top_p", {1e-9, 1}, {0, -1, 1.0000001, kNan, kInf});
  ExpectRange(&SamplingParams::min_p, "min_p", {0, 1}, {-1e-9, 1.1, kNan});
  ExpectRange(&SamplingParams::presence_penalty, "presence_penalty", {-2, 2}, {-2.1, 2.1, kNan, -kInf});
  ExpectRange(&SamplingParams::frequency_penalty, "frequency_penalty", {-2, 2}, {-2.1, 2.1, kNan});
  ExpectRange(&SamplingParams::repetition_penalty, "repetition_penalty", {1e-3, 1, 10}, {0, -1, 10.1, kNan});
  SamplingParams params;
  params.top_k = -1;
  EXPECT_EQ(ValidateSampling(params).code(), absl::StatusCode::kInvalidArgument);
}

void ExpectRefused(const SamplingParams& params, const std::string& message) {
  const absl::Status status = ValidateSampling(params);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), message);
}

TEST(ValidateSamplingTest, Counts) {
  SamplingParams p;
  for (const int32_t good : {-1, 0, 1, 1 << 30}) {
    p.repeat_last_n = good;
    p.dry.penalty_last_n = good;
    EXPECT_TRUE(ValidateSampling(p).ok());
  }
  p.repeat_last_n = -2;
  ExpectRefused(p, "repeat_last_n is -2, less than -1");
  p = {};
  p.min_tokens = -1;
  ExpectRefused(p, "min_tokens is -1, less than 0");
  p = {};
  p.logprobs = true;
  p.top_logprobs = 20;
  EXPECT_TRUE(ValidateSampling(p).ok());
  p.top_logprobs = 21;
  ExpectRefused(p, "top_logprobs is 21, not in [0, 20]");
  p.top_logprobs = -1;
  ExpectRefused(p, "top_logprobs is -1, not in [0, 20]");
  p.logprobs = false;
  p.top_logprobs = 2;
  ExpectRefused(p, "top_logprobs is 2, which needs logprobs");
}

TEST(ValidateSamplingTest, LogitBias) {
  SamplingParams p;
  for (int32_t id = 0; id < 1024; ++id) p.logit_bias.push_back({id, id % 2 == 0 ? 100.0 : -100.0});
  EXPECT_TRUE(ValidateSampling(p).ok());
  EXPECT_TRUE(ValidateSamplingIds(p, 1024).ok());
  EXPECT_EQ(std::string(ValidateSamplingIds(p, 1023).message()),
            "logit_bias[1023] is for an id that is not in [0, 1023)");
  p.logit_bias.push_back({1024, 0});
  ExpectRefused(p, "logit_bias has 1025 entries, more than 1024");
  p.logit_bias = {{7, 100.5}};
  ExpectRefused(p, "logit_bias[7] is 100.5, not in [-100, 100]");
  p.logit_bias = {{7, kNan}};
  ExpectRefused(p, "logit_bias[7] is nan, not in [-100, 100]");
  p.logit_bias = {{7, 1}, {7, 2}};
  ExpectRefused(p, "logit_bias[7] is given twice");
  p.logit_bias = {{7, 1}, {6, 2}};
  EXPECT_EQ(ValidateSampling(p).code(), absl::StatusCode::kInvalidArgument);
  p.logit_bias = {{-1, 1}};
  EXPECT_EQ(ValidateSamplingIds(p, 10).code(), absl::StatusCode::kInvalidArgument);
}

TEST(ValidateSamplingTest, Dry) {
  SamplingParams p;
  p.dry.multiplier = 100.5;
  ExpectRefused(p, "dry_multiplier is 100.5, not in [0, 100]");
  p.dry.multiplier = kNan;
  ExpectRefused(p, "dry_multiplier is nan, not in [0, 100]");
  p.dry.multiplier = 1;
  for (const double base : {0.99, 100.5, kNan, kInf}) {
    p.dry.base = base;
    EXPECT_EQ(std::string(ValidateSampling(p).message()).find("dry_base is "), 0u);
  }
  p.dry.base = 1;
  p.dry.allowed_length = -1;
  ExpectRefused(p, "dry_allowed_length is -1, less than 0");
  p.dry.allowed_length = 0;
  p.dry.penalty_last_n = -2;
  ExpectRefused(p, "dry_penalty_last_n is -2, less than -1");
  p.dry.penalty_last_n = 0;
  EXPECT_TRUE(ValidateSampling(p).ok());
}

TEST(ValidateSamplingTest, DryBreakers) {
  SamplingParams p;
  p.dry.breaker_ids = {1, 4};
  p.dry.breaker_sequences = {{1, 2}, {1, 2, 9}, {3, 0}};
  EXPECT_TRUE(ValidateSampling(p).ok());
  EXPECT_TRUE(ValidateSamplingIds(p, 10).ok());
  EXPECT_EQ(std::string(ValidateSamplingIds(p, 9).message()),
            "dry_sequence_breakers have id 9, not in [0, 9)");
  EXPECT_FALSE(ValidateSamplingIds(p, 4).ok());
  p.dry.breaker_ids = {4, 1};
  EXPECT_FALSE(ValidateSampling(p).ok());
  p.dry.breaker_ids = {};
  p.dry.breaker_sequences = {{3, 0}, {1, 2}};
  EXPECT_FALSE(ValidateSampling(p).ok());
  for (const std::vector<int32_t>& sequence : {std::vector<int32_t>{}, std::vector<int32_t>{5}}) {
    p.dry.breaker_sequences = {sequence};
    EXPECT_FALSE(ValidateSampling(p).ok());
  }
  p.dry.breaker_sequences = {std::vector<int32_t>(65, 1)};
  ExpectRefused(p, "dry_sequence_breakers have a sequence of 65 ids, not in [2, 64]");
  p.dry.breaker_sequences.assign(1025, std::vector<int32_t>(64, 1));
  ExpectRefused(p, "dry_sequence_breakers are 65600 ids long in this vocabulary, more than 65536");
}

}  // namespace
}  // namespace moepool
