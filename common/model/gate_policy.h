// A gate turns the router logits of one row into experts and weights. One implementation a rule; the family's
// descriptor says which. Ties go to the lower expert number; exp is common/base/math.h's.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "common/model/config.h"

namespace moepool {

struct SelectedExpert {
  int32_t expert;
  float weight;
  bool operator==(const SelectedExpert&) const = default;
};

// Added to the sum of a sigmoid gate's weights before they are divided by it.
inline constexpr float kSigmoidLeastSum = 1e-20f;

// Stateless and thread-safe.
class GatePolicy {
 public:
  virtual ~GatePolicy() = default;
  // logits [experts], ignored by the dense gate.  selected [experts_per_token], filled in ascending order of
  // expert number.  False where a logit is not finite (`selected` is then unspecified).
  virtual bool Select(std::span<const float> logits, std::span<SelectedExpert> selected) const = 0;
};

// InvalidArgument where the descriptor names a rule that is not built in.
absl::StatusOr<std::unique_ptr<GatePolicy>> MakeGatePolicy(const ModelConfig& config);

}  // namespace moepool
