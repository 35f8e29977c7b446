#!/usr/bin/env bash
# Builds the fuzz targets with clang under AddressSanitizer and UndefinedBehaviorSanitizer, and runs each from its kept
# corpus. What is new stays in build/fuzz/new/<target>, and an input that fails in build/fuzz/failures. Fails where one
# does: a crash, a leak, more than 10 s or 2 GiB for one input.
set -euo pipefail
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/../.."

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  echo "usage: tests/fuzz/run.sh [SECONDS_EACH] [TARGET...]    600 seconds and all targets unless named"
  exit 0
fi
if ! command -v clang++ > /dev/null; then
  echo "fuzz: clang++ is missing; on Debian: apt-get install clang libclang-rt-14-dev" >&2
  exit 1
fi
seconds=${1:-600}
shift || true
targets=("$@")
if ((${#targets[@]} == 0)); then
  for source in tests/fuzz/*_fuzz.cc; do
    targets+=("$(basename -- "$source" _fuzz.cc)")
  done
fi

cmake -G Ninja -S . -B build/fuzz -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=Release \
  -DMOEPOOL_WERROR=ON -DMOEPOOL_FUZZ=ON
cmake --build build/fuzz --parallel "$(nproc)" --target "${targets[@]/%/_fuzz}"

export UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=detect_stack_use_after_return=1
failed=()
mkdir -p build/fuzz/failures
for target in "${targets[@]}"; do
  printf '\n== %s, %d seconds\n' "$target" "$seconds"
  mkdir -p "build/fuzz/new/$target"
  options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=1024 -max_len=65536
    -print_final_stats=1 -artifact_prefix="build/fuzz/failures/$target-")
  if [[ -f tests/fuzz/$target.dict ]]; then
    options+=(-dict="tests/fuzz/$target.dict")
  fi
  "build/fuzz/tests/${target}_fuzz" "${options[@]}" "build/fuzz/new/$target" "tests/fuzz/corpus/$target" ||
    failed+=("$target")
done

if ((${#failed[@]})); then
  printf '\nFAILED: %s; the inputs are in build/fuzz/failures\n' "${failed[*]}"
  exit 1
fi
printf '\n%d targets clean\n' "${#targets[@]}"
