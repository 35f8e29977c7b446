#include "expert_worker/expert_store.h"

#include <utility>

#include "common/base/parallel_status.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/model/expert_tensors.h"

namespace moepool {

ExpertStore::ExpertStore(const ModelSource* source, Backend* backend, uint64_t memory_limit_bytes)
    : source_(source),
      backend_(backend),
      memory_limit_bytes_(memory_limit_bytes),
      layers_(source->Config().layers),
      experts_(source->Config().experts),
      file_bytes_(ExpertBytes(*source)),
      held_bytes_(static_cast<size_t>(layers_) * experts_, 0) {
  auto empty = std::make_shared<LayerTable>();
  empty->experts.resize(experts_, nullptr);
  empty->owners.resize(experts_);
  tables_.resize(layers_, std::move(empty));
}

absl::Status ExpertStore::CheckRoom(int layer, int expert, uint64_t needed_bytes, uint64_t held_bytes) const {
  if (memory_limit_bytes_ == 0) return absl::OkStatus();
  if (held_bytes <= memory_limit_bytes_ && needed_bytes <= memory_limit_bytes_ - held_bytes)
    return absl::OkStatus();
  return absl::ResourceExhaustedError(StrCat("expert ", expert, " of layer ", layer, " needs ", needed_bytes,
                                             " bytes; ", held_bytes, " of the limit of ", memory_limit_bytes_,
                                             " bytes are in use"));
}

absl::StatusOr<std::shared_ptr<const ExpertWeights>> ExpertStore::Repack(int layer, int expert,
                                                                         uint64_t* bytes) const {
  MOEPOOL_ASSIGN_OR_RETURN(const ExpertTensors tensors, OpenExpert(*source_, layer, expert));
  auto weights = std::make_shared<ExpertWeights>();
  weights->activation = source_->Config().activation;
  *bytes = 0;
  if (tensors.gate.rows == 0) return weights;  // an empty slice of a dense model
  const struct {
    const MatrixView& view;
    const WeightKey& key;
    std::unique_ptr<Matrix>* matrix;
  } matrices[] = {{tensors.gate, tensors.gate_key, &weights->gate},
                  {tensors.up, tensors.up_key, &weights->up},
                  {tensors.down, tensors.down_key, &weights->down}};
  for (const auto& [view, key, matrix] : matrices) {
    MOEPOOL_ASSIGN_OR_RETURN(*matrix, backend_->Load(view, key));
    *bytes += (*matrix)->bytes();
  }
  return weights;
}

absl::Status ExpertStore::Load(int layer, int expert) {
  if (layer < 0 || layer >= layers_ || expert < 0 || expert >= experts_) {
    return absl::InvalidArgumentError(StrCat("expert ", expert, " of layer ", layer, ": the model has ",
                                             experts_, " experts in ", layers_, " layers"));
  }
  const size_t slot = static_cast<size_t>(layer) * experts_ + expert;
  {
    MutexLock lock(&mutex_);
    if (tables_[layer]->experts[expert] != nullptr) return absl::OkStatus();
    // By the file's size first, so that what cannot fit is not read; then by what the device really took.
    MOEPOOL_RETURN_IF_ERROR(CheckRoom(layer, expert, file_bytes_[slot], bytes_ + loading_bytes_));
    loading_bytes_ += file_bytes_[slot];
  }
  uint64_t bytes = 0;
  absl::StatusOr<std::shared_ptr<const ExpertWeights>> weights = Repack(layer, expert, &bytes);
  MutexLock lock(&mutex_);
  loading_bytes_ -= file_bytes_[slot];
  if (!weights.ok()) {
    return absl::Status(weights.status().code(),
                        StrCat("expert ", expert, " of layer ", layer, ": ", weights.status().message()));
  }
  if (tables_[layer]->experts[expert] != nullptr) return absl::OkStatus();
  MOEPOOL_RETURN_IF_ERROR(CheckRoom(layer, expert, bytes, bytes_));
  auto table = std::make_shared<LayerTable>(*tables_[layer]);
  table->experts[expert] = weights->get();
  table->owners[expert] = *std::move(weights);
  tables_[layer] = std::move(table);
  held_bytes_[slot] = bytes;
  bytes_ += bytes;
  return absl::OkStatus();
}

absl::Status ExpertStore::LoadAll(std::span<const ExpertRef> experts, int threads,
                                  absl::FunctionRef<bool()> stop) {
  const absl::Status status =
      ParallelStatus(static_cast<int64_t>(experts.size()), threads, [&](int64_t i) -> absl::Status {
        if (stop()) return absl::CancelledError("stopped");
        const ExpertRef& ref = experts[static_cast<size_t>(i)];
        return Load(ref.layer, ref.expert);
      });
  backend_->KeepLoaded(stop);
  return status;
}

void ExpertStore::Retain(const std::function<bool(int layer, int expert)>& keep) {
  std::vector<std::shared_ptr<const LayerTable>> old;  // freed after the lock
  MutexLock lock(&mutex_);
  for (int layer = 0; layer < layers_; ++layer) {
    std::shared_ptr<LayerTable> table;
    for (int expert = 0; expert < experts_; ++expert) {
      if (tables_[layer]->experts[expert] == nullptr || keep(layer, expert)) continue;
      if (table == nullptr) table = std::make_shared<LayerTable>(*tables_[layer]);
      table->experts[expert] = nullptr;
      table->owners[expert] = nullptr;
      uint64_t& bytes = held_bytes_[static_cast<size_t>(layer) * experts_ + expert];
      bytes_ -= bytes;
      bytes = 0;
    }
    if (table == nullptr) continue;
    old.push_back(std::move(tables_[layer]));
    tables_[layer] = std::move(table);
  }
}

bool ExpertStore::Holds(int layer, int expert) const {
  MutexLock lock(&mutex_);
  return tables_[layer]->experts[expert] != nullptr;
}

std::vector<ExpertRef> ExpertStore::Held() const {
  MutexLock lock(&mutex_);
  std::vector<ExpertRef> held;
  for (int layer = 0; layer < layers_; ++layer) {
    for (int expert = 0; expert < experts_; ++expert) {
      if (tables_[layer]->experts[expert] != nullptr) held.push_back({layer, expert});
    }
  }
  return held;
}

std::shared_ptr<const LayerTable> ExpertStore::Layer(int layer) const {
  MutexLock lock(&mutex_);
  return tables_[layer];
}

uint64_t ExpertStore::bytes() const {
  MutexLock lock(&mutex_);
  return bytes_;
}

}  // namespace moepool
