// See expert_places.h.
#include "common/backend/cuda/expert_places.h"

#include <map>

#include "common/backend/cuda/cuda_backend.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

std::array<CudaMatrix*, 3> MatricesOf(const ExpertWeights& expert) {
  const auto own = [](const std::unique_ptr<Matrix>& matrix) {
    return static_cast<CudaMatrix*>(matrix.get());
  };
  return {own(expert.gate), own(expert.up), own(expert.down)};
}

DeviceExpert Located(const std::array<CudaMatrix*, 3>& matrices) {
  return {matrices[0]->weights(), matrices[1]->weights(), matrices[2]->weights()};
}

int Pinned(const std::array<CudaMatrix*, 3>& matrices) {
  int pinned = 0;
  for (const CudaMatrix* matrix : matrices) pinned += matrix->pinned() ? 1 : 0;
  return pinned;
}

}  // namespace

std::optional<ExpertExchange> ChooseExchange(std::span<const ExpertUse> experts) {
  struct Pair {
    const ExpertUse* hot = nullptr;
    const ExpertUse* cold = nullptr;
  };
  std::map<std::array<uint64_t, 3>, Pair> pairs;  // by bytes
  for (const ExpertUse& expert : experts) {
    if (expert.on_host && !expert.copied) continue;
    Pair& pair = pairs[expert.bytes];
    if (expert.on_host && (pair.hot == nullptr || expert.uses > pair.hot->uses)) pair.hot = &expert;
    if (!expert.on_host && (pair.cold == nullptr || expert.uses < pair.cold->uses)) pair.cold = &expert;
  }
  std::optional<ExpertExchange> best;
  uint64_t most = 0;
  for (const auto& [bytes, pair] : pairs) {
    if (pair.hot == nullptr || pair.cold == nullptr) continue;
    if (pair.hot->uses < 2 * pair.cold->uses + kClearly) continue;
    const uint64_t apart = pair.hot->uses - pair.cold->uses;
    if (best.has_value() && apart <= most) continue;
    best = {pair.hot->id, pair.cold->id};
    most = apart;
  }
  return best;
}

ExpertPlaces::Entry& ExpertPlaces::Know(const ExpertWeights& expert) {
  const std::array<CudaMatrix*, 3> matrices = MatricesOf(expert);
  const auto [entry, added] = known_.try_emplace(matrices[0]->id(), Entry{matrices});
  if (added) {
    for (CudaMatrix* matrix : matrices) matrix->expert_ = matrices[0]->id();
  }
  return entry->second;
}

void ExpertPlaces::Begin(std::span<const ExpertWeights* const> experts) {
  cache_.Begin();
  ++calls_;
  if (calls_ % kCallsALook == 0) {
    // Those that no call has chosen are the coldest.
    MutexLock lock(&mutex_);
    for (const ExpertWeights* expert : experts) {
      if (expert != nullptr && expert->down != nullptr) Know(*expert);
    }
  }
  if (calls_ % kCallsHalved == 0) {
    MutexLock lock(&mutex_);
    for (auto& [id, entry] : known_) entry.uses /= 2;
  }
}

PlacedExpert ExpertPlaces::Use(const ExpertWeights& expert) {
  const std::array<CudaMatrix*, 3> matrices = MatricesOf(expert);
  const uint64_t id = matrices[0]->id();
  {
    MutexLock lock(&mutex_);
    ++Know(expert).uses;
  }
  const bool arriving = id == arriving_.hot || id == arriving_.cold;
  // An expert is copied to the device as a whole; where a matrix or two lie there they are read where they
  // are.
  if (Pinned(matrices) < 3) return {Located(matrices), arriving};
  PlacedExpert placed = cache_.Place(id, Located(matrices));
  placed.late = placed.late || arriving;
  return placed;
}

void ExpertPlaces::Exchange() {
  if (calls_ % kCallsALook != 0) return;
  MutexLock lock(&mutex_);
  uses_.clear();
  for (const auto& [id, entry] : known_) {
    const int pinned = Pinned(entry.matrices);
    if (pinned == 1 || pinned == 2 || entry.matrices[0]->stays()) continue;
    ExpertUse use = {.id = id, .uses = entry.uses, .on_host = pinned == 3, .copied = cache_.Has(id)};
    for (size_t m = 0; m < 3; ++m) use.bytes[m] = entry.matrices[m]->bytes();
    uses_.push_back(use);
  }
  const std::optional<ExpertExchange> chosen = ChooseExchange(uses_);
  if (!chosen.has_value()) return;
  const std::array<CudaMatrix*, 3>& hot = known_.at(chosen->hot).matrices;
  const std::array<CudaMatrix*, 3>& cold = known_.at(chosen->cold).matrices;
  // Where neither of the last two has been used since, no call has waited for them.
  if (arriving_.hot != 0) device_.StreamAfterAside();
  // The hot one's bytes are in the cache already, so that its own memory can be written over.
  const DeviceExpert copy = cache_.Take(chosen->hot, Located(hot));
  const DeviceWeights* const copies[] = {&copy.gate, &copy.up, &copy.down};
  device_.AsideAfterStream();
  for (size_t m = 0; m < 3; ++m) {
    std::byte* const host = hot[m]->data();
    std::byte* const device = cold[m]->data();
    device_.CopyAside(host, device, cold[m]->bytes());
    device_.CopyAside(device, copies[m]->data, hot[m]->bytes());
    hot[m]->ExchangeMemory(cold[m]);
  }
  arriving_ = *chosen;
  ++exchanges_;
}

void ExpertPlaces::Forget(const CudaMatrix& matrix) {
  MutexLock lock(&mutex_);
  known_.erase(matrix.expert_);
}

}  // namespace moepool
