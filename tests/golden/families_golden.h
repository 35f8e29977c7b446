// The golden files of make_families.py, and a tiny model run and held against one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/model/model_source.h"
#include "common/model/synthetic.h"
#include "router/decoder.h"

namespace moepool {

struct Golden {
  SynthSpec spec;
  std::vector<int32_t> ids;
  std::vector<int32_t> positions;
  std::vector<float> logits;  // [positions, vocab]
  std::vector<std::vector<std::vector<int32_t>>>
      experts;  // [layers][ids][experts_per_token]; empty where dense
};

std::vector<std::string> GoldenNames();
Golden ReadGolden(const std::string& name);

struct GoldenDifference {
  double logits = 0;    // the largest of a row, over the row's largest logit; infinite where a row is missing
  int64_t choices = 0;  // of (layer, row)s that chose other experts
  int64_t choices_seen = 0;

  bool Passes() const { return logits <= 1e-3 && choices == 0; }
};

// Runs the golden sequence through `source` in steps of `step_tokens`, with three workers in this process.
GoldenDifference RunGolden(const Golden& golden, const std::shared_ptr<const ModelSource>& source,
                           int step_tokens, std::shared_ptr<const GatePolicy> gate = nullptr);

}  // namespace moepool
