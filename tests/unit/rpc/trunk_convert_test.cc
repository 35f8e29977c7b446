#include "common/rpc/trunk_convert.h"

#include <cmath>

#include "common/rpc/gpu_convert.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

SamplingParams RoundTrip(const SamplingParams& params) {
  SequenceRequest request;
  request.sampling = params;
  trunk::v1::TrunkRequest parsed;
  EXPECT_TRUE(parsed.ParseFromString(ToProto(request).SerializeAsString()));
  return FromProto(parsed).sampling;
}

TEST(TrunkConvertTest, EverySamplingParameter) {
  SamplingParams p;
  p.temperature = 0.5;
  p.top_p = 0.75;
  p.top_k = 3;
  p.min_p = 0.125;
  p.seed = ~uint64_t{0} - 1;
  p.presence_penalty = -1.5;
  p.frequency_penalty = 1.25;
  p.repetition_penalty = 1.0625;
  p.repeat_last_n = 0;
  p.dry = {.multiplier = 0.8,
           .base = 2.5,
           .allowed_length = 0,
           .penalty_last_n = -1,
           .breaker_ids = {0, 7},
           .breaker_sequences = {{1, 0, 2}, {5, 5}}};
  p.logit_bias = {{0, -100}, {9, 0.5}};
  p.min_tokens = 11;
  p.logprobs = true;
  p.top_logprobs = 20;
  const SamplingParams got = RoundTrip(p);
  EXPECT_EQ(got.temperature, 0.5);
  EXPECT_EQ(got.top_p, 0.75);
  EXPECT_EQ(got.top_k, 3);
  EXPECT_EQ(got.min_p, 0.125);
  EXPECT_EQ(got.seed, ~uint64_t{0} - 1);
  EXPECT_EQ(got.presence_penalty, -1.5);
  EXPECT_EQ(got.frequency_penalty, 1.25);
  EXPECT_EQ(got.repetition_penalty, 1.0625);
  EXPECT_EQ(got.repeat_last_n, 0);
  EXPECT_EQ(got.dry.multiplier, 0.8);
  EXPECT_EQ(got.dry.base, 2.5);
  EXPECT_EQ(got.dry.allowed_length, 0);
  EXPECT_EQ(got.dry.penalty_last_n, -1);
  EXPECT_EQ(got.dry.breaker_ids, p.dry.breaker_ids);
  EXPECT_EQ(got.dry.breaker_sequences, p.dry.breaker_sequences);
  ASSERT_EQ(got.logit_bias.size(), 2u);
  EXPECT_EQ(got.logit_bias[0].id, 0);
  EXPECT_EQ(got.logit_bias[0].bias, -100);
  EXPECT_EQ(got.logit_bias[1].id, 9);
  EXPECT_EQ(got.logit_bias[1].bias, 0.5);
  EXPECT_EQ(got.min_tokens, 11);
  EXPECT_TRUE(got.logprobs);
  EXPECT_EQ(got.top_logprobs, 20);
}

TEST(TrunkConvertTest, ConstraintReasoningAndTracing) {
  SequenceRequest request;
  request.request_id = "r";
  request.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  request.constraint = {"root ::= \"a\"", "<call>", true, "</think>", "<think>"};
  request.reasoning = {0, {1, 2}, {3}, {4, 5}};
  request.prompt_logprobs = true;
  trunk::v1::TrunkRequest parsed;
  ASSERT_TRUE(parsed.ParseFromString(ToProto(request).SerializeAsString()));
  const SequenceRequest got = FromProto(parsed);
  EXPECT_EQ(got.request_id, "r");
  EXPECT_EQ(got.traceparent, request.traceparent);
  EXPECT_EQ(got.constraint.grammar, request.constraint.grammar);
  EXPECT_EQ(got.constraint.begin_after, "<call>");
  EXPECT_EQ(got.constraint.thought_end, "</think>");
  EXPECT_EQ(got.constraint.thought_start, "<think>");
  EXPECT_TRUE(got.constraint.may_end_free);
  EXPECT_EQ(got.reasoning.max_tokens, 0);
  EXPECT_EQ(got.reasoning.start_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(got.reasoning.end_ids, (std::vector<int32_t>{3}));
  EXPECT_EQ(got.reasoning.close_ids, (std::vector<int32_t>{4, 5}));
  EXPECT_TRUE(got.prompt_logprobs);
  const SequenceRequest plain = FromProto(ToProto(SequenceRequest()));
  EXPECT_TRUE(plain.constraint.grammar.empty());
  EXPECT_EQ(plain.reasoning.max_tokens, -1);
  EXPECT_FALSE(plain.prompt_logprobs);
}

TEST(TrunkConvertTest, WhatIsAbsentStaysSo) {
  const SamplingParams got = RoundTrip({});
  EXPECT_FALSE(got.repeat_last_n.has_value());
  EXPECT_EQ(got.dry.multiplier, 0);
  EXPECT_EQ(got.dry.base, DryParams().base);
  EXPECT_TRUE(ValidateSampling(got).ok());
  EXPECT_EQ(got.min_tokens, 0);
  EXPECT_FALSE(got.logprobs);
  EXPECT_TRUE(got.logit_bias.empty());
}

// A router is not to be trusted to send two lists of one length.
TEST(TrunkConvertTest, LogprobsOfUnequalLength) {
  trunk::v1::TokenLogprobs proto;
  proto.add_top_ids(3);
  proto.add_top_ids(4);
  proto.add_top_logprobs(-1);
  EXPECT_EQ(FromProto(proto).top.size(), 1u);
}

TEST(TrunkConvertTest, GpusOfAPool) {
  GpuReading gpu;
  gpu.name = "NVIDIA GeForce RTX 4090";
  gpu.uuid = "GPU-1";
  gpu.memory_used_bytes = 21;
  gpu.memory_total_bytes = 24;
  gpu.utilization_ratio = 0;
  gpu.temperature_celsius = 65;
  gpu.power_watts = 312.5;
  PoolInfo pool;
  pool.gpu = gpu;
  pool.workers.resize(2);
  pool.workers[1].gpu = GpuReading();  // of which the driver tells nothing
  trunk::v1::Pool parsed;
  ASSERT_TRUE(parsed.ParseFromString(ToProto(pool).SerializeAsString()));
  const PoolInfo got = FromProto(parsed);
  ASSERT_TRUE(got.gpu.has_value());
  EXPECT_EQ(got.gpu->name, gpu.name);
  EXPECT_EQ(got.gpu->uuid, gpu.uuid);
  EXPECT_EQ(got.gpu->memory_used_bytes, 21u);
  EXPECT_EQ(got.gpu->memory_total_bytes, 24u);
  EXPECT_EQ(got.gpu->utilization_ratio, 0);
  EXPECT_EQ(got.gpu->temperature_celsius, 65);
  EXPECT_EQ(got.gpu->power_watts, 312.5);
  EXPECT_FALSE(got.workers.at(0).gpu.has_value());
  ASSERT_TRUE(got.workers.at(1).gpu.has_value());
  EXPECT_FALSE(got.workers.at(1).gpu->memory_used_bytes.has_value());
  EXPECT_FALSE(got.workers.at(1).gpu->power_watts.has_value());
  EXPECT_FALSE(FromProto(ToProto(PoolInfo())).gpu.has_value());
}

// Nor is a worker to send figures that can be.
TEST(TrunkConvertTest, FiguresOfAGpuThatCannotBe) {
  gpu::v1::Gpu proto;
  proto.set_name(std::string(1000, 'n'));
  proto.set_uuid(std::string(1000, 'u'));
  proto.set_utilization_ratio(std::nan(""));
  proto.set_temperature_celsius(1e300);
  proto.set_power_watts(-1);
  const GpuReading got = FromProto(proto);
  EXPECT_EQ(got.name.size(), 96u);
  EXPECT_EQ(got.uuid.size(), 96u);
  EXPECT_FALSE(got.utilization_ratio.has_value());
  EXPECT_FALSE(got.temperature_celsius.has_value());
  EXPECT_FALSE(got.power_watts.has_value());
}

}  // namespace
}  // namespace moepool
