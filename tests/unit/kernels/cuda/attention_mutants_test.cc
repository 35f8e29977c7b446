// Copies of the attention kernels with one fault each (CMakeLists.txt), every one of which a step must show.
#include "tests/support/simt/device_of_kernels.h"
#include "tests/unit/kernels/cuda/attention_scenarios.h"

#define ATTEND_MUTANT(name)                          \
  namespace moepool::name {                          \
  void Attend(const AttendArgs& args, void* stream); \
  }
#define OTHER_MUTANT(name)                               \
  namespace moepool::name {                              \
  void ProjectKv(const ProjectArgs& args, void* stream); \
  void MergeSplits(const MergeArgs& args, void* stream); \
  }
#include "attention_mutants.inc"
#undef ATTEND_MUTANT
#undef OTHER_MUTANT

namespace moepool {
namespace {

struct Mutant {
  std::string name;
  AttentionKernels kernels;
};
std::vector<Mutant> Mutants() {
  const AttentionKernels right = emulated::Kernels().attention;
#define ATTEND_MUTANT(name) {#name, {right.project, name::Attend, right.merge}},
#define OTHER_MUTANT(name) {#name, {name::ProjectKv, right.attend, name::MergeSplits}},
  return {
#include "attention_mutants.inc"
  };
#undef ATTEND_MUTANT
#undef OTHER_MUTANT
}

CudaKernels With(const AttentionKernels& attention) {
  CudaKernels kernels = emulated::Kernels();
  kernels.attention = attention;
  return kernels;
}

std::vector<Scenario> Scenarios() {
  std::vector<Scenario> scenarios;
  for (KvType type : {KvType::kF16, KvType::kQ8_0}) {
    for (QkNorm norm : {QkNorm::kHead, QkNorm::kRow}) {
      Scenario s = {MakeShape(8, 2, 32), type, {{520, 521}, {250, 262}}};
      s.shape.qk_norm = norm;
      if (norm == QkNorm::kHead) s.shape.rope = RopeKind::kInterleaved;
      if (norm == QkNorm::kRow) s.shape.window = 300;
      scenarios.push_back(s);
    }
  }
  scenarios.push_back(scenarios[1]);
  scenarios.back().unusable_norm = true;
  scenarios.push_back({MakeShape(4, 1, 32), KvType::kBF16, {{20, 22}}});
  const int splits = 32;  // of one round of a merge
  scenarios.push_back({MakeShape(4, 1, 32), KvType::kF16, {{256 * splits + 9, 256 * splits + 10}}});
  scenarios.back().loud_position = 256 * splits + 5;
  return scenarios;
}

// Steps, with partial results and without, whose results are not the CPU's.
int WrongSteps(const AttentionKernels& kernels, int shifts) {
  static const std::unique_ptr<Backend> cpu = ScalarBackend();
  static const std::vector<Scenario> scenarios = Scenarios();
  static const std::vector<StepResult> expected = [] {
    std::vector<StepResult> results;
    for (const Scenario& s : scenarios) results.push_back(RunStep(s, OnCpu(cpu.get())));
    return results;
  }();
  int wrong = 0;
  for (int shift = 0; shift < shifts && (shift == 0 || wrong == 0); ++shift) {
    DeviceOfKernels device(With(kernels));
    CudaContext context(&device);
    for (int64_t partial_bytes : {CudaAttention::kPartialBytes, int64_t{0}}) {
      CudaAttention attention(&context, partial_bytes);
      for (size_t i = 0; i < scenarios.size(); ++i) {
        if (!SameResults(RunStep(scenarios[i], OnDevice(&context, &attention)), expected[i])) ++wrong;
        if (!SameResults(RunStep(scenarios[i], Prepared(&context, &attention)), expected[i])) ++wrong;
      }
    }
    simt::Start<int>([](int) {}, {}, nullptr, 0);  // other orders of threads in the next round
  }
  return wrong;
}

TEST(CudaAttentionMutantsTest, WithoutAFaultNoStepIsWrong) {
  EXPECT_EQ(WrongSteps(emulated::Kernels().attention, 1), 0);
}

TEST(CudaAttentionMutantsTest, EveryFaultShows) {
  const std::vector<Mutant> mutants = Mutants();
  EXPECT_EQ(mutants.size(), 15u);
  for (const Mutant& mutant : mutants) EXPECT_GT(WrongSteps(mutant.kernels, 3), 0) << mutant.name;
}

}  // namespace
}  // namespace moepool
