// A synthetic model's metadata and tensors, to be altered and then described.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "common/model/descriptor.h"
#include "common/model/families.h"
#include "common/model/synthetic_plan.h"
#include "tests/unit/model/test_files.h"

namespace moepool {

inline GgufValue U32(uint64_t value) { return {GgufType::kU32, value}; }
inline GgufValue F32(double value) { return {GgufType::kF32, value}; }
inline GgufValue Text(std::string value) { return {GgufType::kString, std::move(value)}; }

class Subject {
 public:
  explicit Subject(const SynthSpec& spec) {
    const SynthPlan plan = *PlanSynthetic(spec);
    std::string file = plan.header.Serialize();
    file.resize(file.size() + plan.header.data_bytes());
    metadata_ = Parse(file)->metadata;
    for (const SynthTensor& tensor : plan.tensors) tensors_.push_back(tensor.info);
  }
  static Subject Dense() { return Subject(SynthSpec()); }
  static Subject Experts(std::string family) {
    SynthSpec spec;
    spec.family = std::move(family);
    spec.experts = 8;
    spec.experts_per_token = FindFamily(spec.family)->gate == GateKind::kSparseMixer ? 2 : 3;
    if (FindFamily(spec.family)->shared_expert) spec.shared_ffn = 96;
    if (FindFamily(spec.family)->longrope_mscale > 0) spec.original_context = 128;
    return Subject(spec);
  }

  Subject& Set(const std::string& key, GgufValue value) {
    Remove(key);
    metadata_.Insert(key, std::move(value));
    return *this;
  }
  Subject& Remove(const std::string& key) {
    GgufMetadata rest;
    for (const auto& [name, value] : metadata_.values()) {
      if (name != key) rest.Insert(name, value);
    }
    metadata_ = std::move(rest);
    return *this;
  }
  TensorInfo* Tensor(const std::string& name) {
    for (TensorInfo& tensor : tensors_) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  }
  std::vector<TensorInfo>& tensors() { return tensors_; }

  absl::StatusOr<ModelConfig> Describe() const {
    const TensorTable table(tensors_);
    absl::StatusOr<ModelConfig> config = DescribeModel(metadata_, table, "stem");
    if (!config.ok()) return config;
    const absl::Status status = CheckTensors(*config, table);
    if (!status.ok()) return status;
    return config;
  }
  const GgufMetadata& metadata() const { return metadata_; }

 private:
  GgufMetadata metadata_;
  std::vector<TensorInfo> tensors_;
};

inline void ExpectError(const Subject& subject, absl::StatusCode code,
                        const ::testing::Matcher<std::string>& message) {
  const absl::Status status = subject.Describe().status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), message);
}
inline void ExpectInvalid(const Subject& subject, const ::testing::Matcher<std::string>& message) {
  ExpectError(subject, absl::StatusCode::kInvalidArgument, message);
}
inline void ExpectUnimplemented(const Subject& subject, const ::testing::Matcher<std::string>& message) {
  ExpectError(subject, absl::StatusCode::kUnimplemented, message);
}

}  // namespace moepool
