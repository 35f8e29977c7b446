// Gates written a second time, from the definition and in double, with a knob for each clause of the rule:
// what the golden files must be able to tell apart. With every knob as it stands they are the rules of
// gate_policy.cc.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "common/model/gate_policy.h"

namespace moepool {

inline void SortByExpert(std::span<SelectedExpert> selected) {
  std::sort(selected.begin(), selected.end(),
            [](const SelectedExpert& a, const SelectedExpert& b) { return a.expert < b.expert; });
}

// The largest of `scores`, the lower of equals; the higher where `higher_ties`.
inline int32_t Largest(std::span<const double> scores, bool higher_ties) {
  int32_t largest = 0;
  for (int32_t e = 1; e < static_cast<int32_t>(scores.size()); ++e) {
    if (scores[e] > scores[largest] || (higher_ties && scores[e] == scores[largest])) largest = e;
  }
  return largest;
}

struct SoftmaxGateRule : GatePolicy {
  bool renormalize = false;
  bool higher_ties = false;
  bool sigmoid = false;
  int skip = 0;  // of the largest

  bool Select(std::span<const float> logits, std::span<SelectedExpert> selected) const override {
    std::vector<double> left(logits.begin(), logits.end());
    double all = 0;
    for (const double logit : left) all += std::exp(logit);
    double chosen = 0;
    for (int i = -skip; i < static_cast<int>(selected.size()); ++i) {
      const int32_t e = Largest(left, higher_ties);
      left[e] = -std::numeric_limits<double>::infinity();
      if (i < 0) continue;
      const double logit = logits[e];
      const double weight = sigmoid ? 1 / (1 + std::exp(-logit)) : std::exp(logit) / all;
      chosen += weight;
      selected[i] = {e, static_cast<float>(weight)};
    }
    for (SelectedExpert& s : selected) s.weight /= renormalize ? static_cast<float>(chosen) : 1.0f;
    SortByExpert(selected);
    return true;
  }
};

struct SparseMixerGateRule : GatePolicy {
  double eps = 0.01;
  bool first_mask = true;   // the first softmax is over those near the first
  bool second_mask = true;  // the second over those near the second
  bool by_size = true;      // the distance is divided by max(|s_j|, m), by m otherwise
  bool take_first = true;   // the first is not in the second softmax
  bool higher_ties = false;
  bool renormalize = false;

  bool Select(std::span<const float> logits, std::span<SelectedExpert> selected) const override {
    std::vector<double> scores(logits.begin(), logits.end());
    selected[0] = Pick(scores, scores, first_mask);
    std::vector<double> rest = scores;
    rest[selected[0].expert] = -std::numeric_limits<double>::infinity();
    selected[1] = Pick(scores, rest, second_mask);
    if (renormalize) {
      const float sum = selected[0].weight + selected[1].weight;
      for (SelectedExpert& s : selected) s.weight /= sum;
    }
    SortByExpert(selected);
    return true;
  }

 private:
  SelectedExpert Pick(const std::vector<double>& scores, const std::vector<double>& left, bool mask) const {
    const int32_t largest = Largest(left, higher_ties);
    const double m = left[largest];
    double sum = 0;
    for (size_t j = 0; j < scores.size(); ++j) {
      if (take_first && std::isinf(left[j])) continue;
      const double apart = (m - scores[j]) / (by_size ? std::max(std::fabs(scores[j]), m) : m);
      if (!mask || !(apart > 2 * eps)) sum += std::exp(scores[j] - m);
    }
    return {largest, static_cast<float>(1 / sum)};
  }
};

}  // namespace moepool
