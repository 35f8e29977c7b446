// See exchange.h.
#include "router/exchange.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace moepool {

void Exchange::Plan(const ModelConfig& config, int layer_number, int row_count,
                    std::span<const SelectedExpert> selected, std::span<const uint8_t> skip,
                    std::shared_ptr<const RoutingTable> routes) {
  const size_t k = static_cast<size_t>(config.experts_per_token);
  const uint32_t levels = TreeLevels(config.experts);
  layer = layer_number;
  table = std::move(routes);
  shares.resize(table->members.size());
  for (ExchangeShare& share : shares) {
    share.dispatch_id = 0;
    share.last_row = -1;
    share.rows.clear();
    share.parts.clear();
    share.entries.clear();
    share.part_of.clear();
    share.packed = {};
  }
  parts.clear();
  adds.clear();
  row_of.clear();
  rows.clear();
  row_experts_.resize(k);
  row_owners_.resize(k);
  for (int row = 0; row < row_count; ++row) {
    if (skip[row]) continue;
    const std::span<const SelectedExpert> chosen = selected.subspan(row * k, k);
    for (size_t i = 0; i < k; ++i) {
      row_experts_[i] = chosen[i].expert;
      row_owners_[i] = table->Owner(layer, config.experts, chosen[i].expert);
    }
    const size_t first_part = parts.size();
    const size_t first_add = adds.size();
    PlanRow(row_experts_, row_owners_, levels, &parts, &adds);
    rows.push_back({row, static_cast<int32_t>(first_part), static_cast<int32_t>(parts.size()),
                    static_cast<int32_t>(first_add), static_cast<int32_t>(adds.size())});
    for (size_t p = first_part; p < parts.size(); ++p) {
      const PlannedPart& part = parts[p];
      ExchangeShare& share = shares[part.owner];
      if (share.last_row != row) {
        share.rows.push_back(row);
        share.last_row = row;
      }
      share.parts.push_back({static_cast<uint32_t>(share.rows.size() - 1),
                             static_cast<uint16_t>(part.node.level), static_cast<uint16_t>(part.node.index),
                             static_cast<uint32_t>(share.entries.size())});
      for (int i = part.begin; i < part.end; ++i)
        share.entries.push_back({chosen[i].expert, chosen[i].weight});
      share.part_of.push_back(static_cast<int32_t>(p));
      row_of.push_back(row);
    }
  }
  replies.clear();
  combining.clear();
  data.assign(parts.size(), nullptr);
  on_device.assign(parts.size(), 0);
  part_fault.assign(parts.size(), 0);
  PlanHost(config.experts);
}

void Exchange::PlanHost(int experts) {
  constexpr size_t kEvenness = 8;  // the largest share is above the mean by an eighth of it at most
  // Reading an expert's weights takes as long as this many rows more of its product, in four bits and in
  // eight: 145 us with one row and 260 with eight, of 12.4 MB.
  constexpr size_t kRowsAnExpert = 9;
  host_workers = 0;
  all_shared_memory = true;
  bool all_asked = true;
  size_t total = 0;
  size_t largest = 0;
  for (size_t m = 0; m < shares.size(); ++m) {
    ExchangeShare& share = shares[m];
    const RouteMember& member = table->members[m];
    if (!share.parts.empty() && member.transport->Name() != "shm") all_shared_memory = false;
    if (!member.on_host) continue;
    share.host_slot = host_workers++;
    expert_seen_.assign(static_cast<size_t>(experts), 0);
    size_t work = share.entries.size();
    for (const ExpertEntry& entry : share.entries) {
      if (expert_seen_[entry.expert] == 0) work += kRowsAnExpert;
      expert_seen_[entry.expert] = 1;
    }
    total += work;
    largest = std::max(largest, work);
    all_asked = all_asked && work > 0;
  }
  const bool even = all_asked && largest * host_workers * kEvenness <= total * (kEvenness + 1);
  if (!even || host_workers > std::numeric_limits<uint8_t>::max()) host_workers = 0;
}

void Exchange::HoldUp(size_t member, Exchange* other) const {
  if (other->table == nullptr || other->table->epoch != table->epoch) return;
  const ExchangeShare& share = shares[member];
  ExchangeShare& later = other->shares[member];
  if (later.dispatch_id < share.dispatch_id) return;
  later.behind = std::clamp(share.received - later.sent, absl::ZeroDuration(),
                            absl::Duration(absl::Microseconds(share.compute_us)));
}

void Exchange::Clear() {
  combining = std::move(replies);
  std::erase_if(combining, [](const FrameBytes& reply) { return reply.device.empty(); });
  replies.clear();
  table.reset();
}

}  // namespace moepool
