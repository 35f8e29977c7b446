#include <limits>

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

}  // namespace
}  // namespace moepool
