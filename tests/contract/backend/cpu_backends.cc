// The CPU backend with each instruction set of this machine and several numbers of threads; under a
// sanitizer, which makes minutes of seconds, with one number.
#include "tests/contract/backend/backend_contract.h"

namespace moepool {

std::vector<BackendCase> BackendCases() {
  std::vector<BackendCase> cases;
  for (const KernelTable* table : AvailableKernels()) {
    cases.push_back({table->name, 3});
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    cases.push_back({table->name, 1});
#endif
  }
  const std::string fastest = AvailableKernels().back()->name;
  for (int threads : {2, 7}) cases.push_back({fastest, threads});
  return cases;
}

std::unique_ptr<Backend> MakeCase(const BackendCase& c) { return MakeCpu(c); }

}  // namespace moepool
