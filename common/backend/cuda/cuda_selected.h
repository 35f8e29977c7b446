// The experts of a layer from what its gate chose on the device (ExpertOps::Select, RunSelected). How many
// pairs and tiles there are the device finds out; the host knows bounds, and launches for those.
#pragma once

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "common/backend/backend.h"
#include "common/backend/cuda/cuda_context.h"

namespace moepool {

class CudaExpertSet;

// As those of ExpertOps; for who holds the context's mutex.
class CudaSelected {
 public:
  // Works in `hidden` and `leaves` too, which other operations of the context's stream may share.
  CudaSelected(CudaContext* context, DeviceScratch* hidden, DeviceScratch* leaves);
  // Takes what Run() needs for calls up to `call` beside `hidden` and `leaves`, where a set has been made.
  absl::Status Reserve(int hidden, const LargestCall& call);
  absl::StatusOr<std::unique_ptr<ExpertSet>> MakeSet(std::span<const ExpertWeights* const> experts);
  static bool CanSelect(const ModelConfig& config);
  void Select(const ModelConfig& config, const float* logits, int rows, SelectedExpert* selected,
              RowFaults faults);
  void Run(const ExpertSet& set, const SelectedBatch& batch, float* residual, RowFaults faults);

 private:
  // Where the sum of row r goes: out[r], or residual[r] += sum (+ shared[r]).
  struct Sums {
    float* out = nullptr;
    const float* shared = nullptr;
    float* residual = nullptr;
    DeviceFaults faults = nullptr;
  };
  void RunSet(const CudaExpertSet& set, const Activations& x, const SelectedExpert* selected, int k,
              const Sums& sums);
  const float* RunShared(const SelectedBatch& batch, DeviceFaults faults);
  void* Stream() { return context_.device().Stream(); }

  CudaContext& context_;
  DeviceScratch& hidden_;  // h and pair faults
  DeviceScratch& leaves_;
  bool sets_made_ = false;
  DeviceScratch plan_;
  DeviceScratch shared_;  // selection and sums of the shared expert
};

}  // namespace moepool
