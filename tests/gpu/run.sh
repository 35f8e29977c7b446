#!/usr/bin/env bash
# Builds with CUDA on a machine with a GPU and runs what needs one: the tests labelled gpu, the real model, and the tests
# labelled gpu once more under compute-sanitizer. Fails with the first that fails.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

usage() {
  cat << 'TEXT'
usage: tests/gpu/run.sh [--fast] [PRESET]

  --fast  without compute-sanitizer, under which the tests take a hundred times as long
  PRESET  cuda (all cards) where it is missing; cuda-89 builds in a fifth of the time and runs on sm_89 alone
TEXT
}

fast=0 preset=cuda
for option in "$@"; do
  case "$option" in
    --fast) fast=1 ;;
    --help | -h) usage && exit 0 ;;
    -*) usage >&2 && exit 2 ;;
    *) preset=$option ;;
  esac
done

export PATH=$PATH:/usr/local/cuda/bin
if ! ((fast)) && ! command -v compute-sanitizer > /dev/null; then
  echo "tests/gpu/run.sh: there is no compute-sanitizer on the path or in /usr/local/cuda/bin; --fast leaves it out" >&2
  exit 1
fi
MOEPOOL_TEST_MODEL=$(deploy/fetch_model.sh)
export MOEPOOL_TEST_MODEL

cmake --preset "$preset"
cmake --build --preset "$preset" --parallel "$(nproc)" --target cuda_check smollm2_test
tests=build/$preset/tests
# A test that took the CPU for want of a GPU would show nothing.
"$tests/gpu_device_test" --gtest_brief=1
ctest --test-dir "build/$preset" --label-regex '^gpu$' --output-on-failure --no-tests=error
"$tests/backend_test" --gtest_brief=1
GTEST_FILTER='-*Nightly*' "$tests/smollm2_test" --gtest_brief=1
((fast)) && exit 0

for tool in memcheck racecheck synccheck; do
  for name in gpu_device_test gpu_contract_test gpu_models_test; do
    # The device's tests ask for memory that there is not, which memcheck would report.
    [[ $name == gpu_device_test ]] && filter='-*MemoryItHasNotIsRefused*' || filter='*'
    printf '\n== %s under %s\n' "$name" "$tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$tests/$name" --gtest_brief=1 --gtest_filter="$filter"
  done
done
