// Weights that a GPU's backend has packed once are read as they were packed at the next start, by a CPU's
// backend too.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <utility>

#include "common/backend/cuda/cuda_backend.h"
#include "common/kernels/packed.h"
#include "common/model/expert_tensors.h"
#include "common/model/synthetic.h"
#include "tests/support/simt/emulated_device.h"
#include "tests/unit/weights/weights_testing.h"

namespace moepool {
namespace {

TEST(CudaWeightsTest, TheSecondStartReadsWhatTheFirstPacked) {
  const TempWeights temp;
  SynthSpec spec;
  spec.hidden = spec.ffn = 256;
  spec.experts = 2;
  spec.experts_per_token = 1;
  spec.dtype = DType::kQ4_K;
  const std::unique_ptr<ModelSource> source = *MakeSyntheticSource(spec);
  ExpertTensors tensors = *OpenExpert(*source, 1, 1);
  const PackedMatrix expected = *Pack(tensors.gate);
  for (const bool blind : {false, true}) {
    if (blind) tensors.gate.data = nullptr;
    CudaOptions options;
    options.self_check = false;
    options.weights.map = true;  // has no meaning here
    options.weights.cache_directory = temp.Options().directory;
    const auto backend = CudaBackend::Create(std::make_unique<EmulatedDevice>(), options).value();
    const auto matrix = backend->Load(tensors.gate, tensors.gate_key);
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    const auto& on_device = static_cast<const CudaMatrix&>(**matrix);
    ASSERT_EQ(on_device.bytes(), expected.bytes());
    // The emulated device's memory is the host's.
    EXPECT_EQ(std::memcmp(on_device.data(), expected.weights.data, expected.bytes()), 0);
    backend->KeepLoaded([] { return false; });
    backend->weights().AwaitKept();
    EXPECT_EQ(temp.Files().size(), 1u);
  }
}

}  // namespace
}  // namespace moepool
