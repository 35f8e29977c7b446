// See expert_load.h.
#include "router/expert_load.h"

#include <algorithm>
#include <numeric>

namespace moepool {

ExpertLoad::ExpertLoad(int layers, int experts, int experts_per_token)
    : experts_(static_cast<size_t>(experts)),
      experts_per_token_(static_cast<size_t>(experts_per_token)),
      all_(static_cast<size_t>(layers) * experts_, 0),
      last_minute_(all_.size()) {}

void ExpertLoad::Add(int layer, std::span<const SelectedExpert> selected, std::span<const uint8_t> skip,
                     absl::Time now) {
  const size_t first = static_cast<size_t>(layer) * experts_;
  MutexLock lock(&mutex_);
  uint64_t* const all = &all_[first];
  uint64_t* const recent = &last_minute_.At(now)[first];
  for (size_t row = 0; row < skip.size(); ++row) {
    if (skip[row]) continue;
    for (size_t i = row * experts_per_token_; i < (row + 1) * experts_per_token_; ++i) {
      ++all[selected[i].expert];
      ++recent[selected[i].expert];
    }
  }
}

ExpertLoad::Tokens ExpertLoad::Read(absl::Time now) const {
  MutexLock lock(&mutex_);
  return {all_, last_minute_.Sums(now)};
}

std::vector<double> LoadRatios(std::span<const uint64_t> tokens, const RoutingTable& table, int layers,
                               int experts) {
  std::vector<double> ratios(static_cast<size_t>(layers), 0);
  std::vector<uint64_t> of_member(table.members.size());
  for (int layer = 0; layer < layers; ++layer) {
    std::fill(of_member.begin(), of_member.end(), 0);
    for (int expert = 0; expert < experts; ++expert) {
      of_member[static_cast<size_t>(table.Owner(layer, experts, expert))] +=
          tokens[static_cast<size_t>(layer * experts + expert)];
    }
    const auto sum = static_cast<double>(std::accumulate(of_member.begin(), of_member.end(), uint64_t{0}));
    if (sum == 0) continue;
    const auto most = static_cast<double>(*std::max_element(of_member.begin(), of_member.end()));
    ratios[static_cast<size_t>(layer)] = most * static_cast<double>(of_member.size()) / sum;
  }
  return ratios;
}

}  // namespace moepool
