// See gate_policy.h.
#include "common/model/gate_policy.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "common/base/math.h"
#include "common/base/str.h"

namespace moepool {
namespace {

class DenseGate final : public GatePolicy {
 public:
  bool Select(std::span<const float>, std::span<SelectedExpert> selected) const override {
    for (size_t e = 0; e < selected.size(); ++e) selected[e] = {static_cast<int32_t>(e), 1.0f};
    return true;
  }
};

bool AllFinite(std::span<const float> logits) {
  return std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); });
}

// The k largest, ascending by number, with their logits for weights. Softmax and sigmoid keep the order of
// logits, and their rounding would make ties that are none. k is small.
void ChooseLargest(std::span<const float> logits, std::span<SelectedExpert> selected) {
  size_t n = 0;
  for (size_t e = 0; e < logits.size(); ++e) {
    if (n == selected.size() && logits[e] <= selected[n - 1].weight) continue;
    size_t at = n == selected.size() ? n - 1 : n++;
    for (; at > 0 && selected[at - 1].weight < logits[e]; --at) selected[at] = selected[at - 1];
    selected[at] = {static_cast<int32_t>(e), logits[e]};
  }
  std::sort(selected.begin(), selected.end(),
            [](const SelectedExpert& a, const SelectedExpert& b) { return a.expert < b.expert; });
}

// Divides the weights by their sum and `least`, where the family renormalises; then multiplies them by scale.
void Weigh(const GateConfig& config, float least, std::span<SelectedExpert> selected) {
  if (config.renormalize) {
    float chosen = 0;
    for (const SelectedExpert& s : selected) chosen += s.weight;
    for (SelectedExpert& s : selected) s.weight /= chosen + least;
  }
  for (SelectedExpert& s : selected) s.weight *= config.scale;
}

// p = softmax(logits); the k largest; divided by their sum where the family renormalises; times scale.
// Sums run in ascending order of expert number: the tokens of a model depend on it.
class SoftmaxGate final : public GatePolicy {
 public:
  explicit SoftmaxGate(const GateConfig& config) : config_(config) {}

  bool Select(std::span<const float> logits, std::span<SelectedExpert> selected) const override {
    if (!AllFinite(logits)) return false;
    const float max = *std::max_element(logits.begin(), logits.end());
    absl::InlinedVector<float, 256> exps(logits.size());
    float sum = 0;
    for (size_t e = 0; e < logits.size(); ++e) {
      exps[e] = Exp(logits[e] - max);
      sum += exps[e];
    }
    ChooseLargest(logits, selected);
    for (SelectedExpert& s : selected) s.weight = exps[static_cast<size_t>(s.expert)] / sum;
    Weigh(config_, 0, selected);  // the sum holds the largest of all, so it is not 0
    return true;
  }

 private:
  const GateConfig config_;
};

// The k largest, weighted by the sigmoids of their logits; divided by their sum where the family
// renormalises; times scale. The sum may be 0, of logits under -88: 1e-20 is added to it, as DeepSeek-V3's
// published code does.
class SigmoidGate final : public GatePolicy {
 public:
  explicit SigmoidGate(const GateConfig& config) : config_(config) {}

  bool Select(std::span<const float> logits, std::span<SelectedExpert> selected) const override {
    if (!AllFinite(logits)) return false;
    ChooseLargest(logits, selected);
    for (SelectedExpert& s : selected) s.weight = Sigmoid(s.weight);
    Weigh(config_, kSigmoidLeastSum, selected);
    return true;
  }

 private:
  const GateConfig config_;
};

// Sparsemixer at inference (arXiv 2409.12136 and transformers' phimoe): e1 is the largest logit, weighted by
// a softmax over those that lie within 2 eps of it; e2 the same among the others. The weights are not
// renormalised, and the first is not the larger by rule: of two equal logits the first weighs 1/2, the second
// 1.
class SparseMixerGate final : public GatePolicy {
 public:
  explicit SparseMixerGate(float jitter_eps) : most_apart_(2 * jitter_eps) {}

  bool Select(std::span<const float> logits, std::span<SelectedExpert> selected) const override {
    if (!AllFinite(logits)) return false;
    selected[0] = Pick(logits, -1);
    selected[1] = Pick(logits, selected[0].expert);
    if (selected[1].expert < selected[0].expert) std::swap(selected[0], selected[1]);
    return true;
  }

 private:
  // The largest logit beside `taken`, and its weight among those j with (m - s_j) / max(|s_j|, m) <= 2 eps.
  SelectedExpert Pick(std::span<const float> logits, int32_t taken) const {
    int32_t largest = -1;
    for (int32_t e = 0; e < static_cast<int32_t>(logits.size()); ++e) {
      if (e != taken && (largest < 0 || logits[e] > logits[largest])) largest = e;
    }
    const float m = logits[largest];
    float sum = 0;
    for (int32_t e = 0; e < static_cast<int32_t>(logits.size()); ++e) {
      const float s = logits[e];
      // Where m and s_j are 0 the quotient is none, and the expert stays.
      if (e != taken && !((m - s) / std::max(std::fabs(s), m) > most_apart_)) sum += Exp(s - m);
    }
    return {largest, 1.0f / sum};
  }

  const float most_apart_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GatePolicy>> MakeGatePolicy(const ModelConfig& config) {
  if (config.experts < 1 || config.experts_per_token < 1 || config.experts_per_token > config.experts) {
    return absl::InvalidArgumentError(
        StrCat("a gate that picks ", config.experts_per_token, " of ", config.experts, " experts"));
  }
  switch (config.gate.kind) {
    case GateKind::kDense:
      if (config.experts_per_token != config.experts) break;
      return std::make_unique<DenseGate>();
    case GateKind::kSoftmax:
      return std::make_unique<SoftmaxGate>(config.gate);
    case GateKind::kSparseMixer:
      if (config.experts_per_token != 2) break;
      return std::make_unique<SparseMixerGate>(config.gate.jitter_eps);
    case GateKind::kSigmoid:
      return std::make_unique<SigmoidGate>(config.gate);
  }
  return absl::InvalidArgumentError(StrCat("gate rule ", static_cast<int>(config.gate.kind), " picking ",
                                           config.experts_per_token, " of ", config.experts,
                                           " experts is not built in"));
}

}  // namespace moepool
