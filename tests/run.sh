#!/usr/bin/env bash
# Installs what is missing, builds, and runs every check of the tree. The last line is "N passed, N failed, N skipped":
# one for each ctest of the release and the sanitizer build, for clang-format, for clang-tidy and for the CUDA build where
# there is an nvcc, and one failed for a build that fails. Non-zero where anything failed.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

usage() {
  cat << 'TEXT'
usage: tests/run.sh [--fast] [--nightly]

  --fast     without AddressSanitizer and clang-tidy
  --nightly  the tests labelled nightly too (published vocabularies and templates, a real model, every pair of settings
             for each family, an hour's soak), the core under ThreadSanitizer, CUDA for all cards rather than sm_89
             alone, the image, compose and the package in a Debian of their own, and the fuzz targets for ten minutes
             each: five hours
TEXT
}

fast=0 nightly=0
for option in "$@"; do
  case "$option" in
    --fast) fast=1 ;;
    --nightly) nightly=1 ;;
    --help | -h) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
  esac
done

passed=0 failed=0 skipped=0
section() { printf '\n== %s\n' "$*"; }

# check NAME COMMAND...: one of the counted checks.
check() {
  local name=$1
  shift
  section "$name"
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $name"
  fi
}

# Configures and builds a preset; a failure counts as one failed check, and its tests are not run.
build() {  # PRESET
  section "build $1"
  # One job a core: a gRPC source takes up to 1 GiB of memory to compile.
  if cmake --preset "$1" && cmake --build --preset "$1" --parallel "$(nproc)"; then
    return 0
  fi
  failed=$((failed + 1))
  echo "FAILED: build $1"
  return 1
}

attribute() {  # NAME FILE: of the outermost element of a JUnit file
  sed -n "/<testsuite /,/>/s/^.*[[:space:]]$1=\"\([0-9]*\)\".*\$/\1/p" "$2" | head -n 1
}

# Runs a preset's tests and adds their numbers. A test whose program is missing is "skipped" in JUnit's count and failed
# in ctest's own, which is the one that is right.
run_tests() {  # PRESET [LABELS]: without tests of these labels, a regular expression
  local junit="$PWD/build/$1/ctest.xml" log="$PWD/build/$1/ctest.log" exclude=() status=0 total good bad
  [[ -z ${2:-} ]] || exclude=(-LE "$2")
  section "test $1"
  rm -f -- "$junit"
  ctest --test-dir "build/$1" --parallel "$(nproc)" --output-on-failure --no-tests=error --output-junit "$junit" \
    "${exclude[@]}" 2>&1 | tee "$log" || status=$?
  bad=$(sed -n 's/^.* tests passed, \([0-9]*\) tests failed out of [0-9]*$/\1/p' "$log")
  if [[ ! -f $junit || -z $bad ]] || ((status != 0 && bad == 0)); then
    failed=$((failed + 1))
    echo "FAILED: ctest of $1 ended with $status and no count"
    return
  fi
  total=$(attribute tests "$junit")
  good=$((total - $(attribute failures "$junit") - $(attribute disabled "$junit") - $(attribute skipped "$junit")))
  passed=$((passed + good))
  failed=$((failed + bad))
  skipped=$((skipped + total - good - bad))
}

sources() {
  git ls-files '*.h' '*.cc' '*.cu' '*.cuh'
}

check_format() {
  sources | xargs clang-format --dry-run -Werror
}

# Sources changed since the branch left main; since the last commit where this is main. Those that changed most come first.
changed_sources() {
  local base
  base=$(git merge-base HEAD origin/main 2> /dev/null) || base=""
  if [[ -z $base || $base == "$(git rev-parse HEAD)" ]]; then
    base=$(git rev-parse --verify --quiet HEAD~1) || return 0
  fi
  git diff --numstat --no-renames --diff-filter=d "$base" -- '*.cc' | sort -rn | cut -f 3
}

check_tidy() {
  local changed most=40  # which take some ten minutes; all of them at night
  changed=$(changed_sources)
  ((nightly)) && most=$(wc -l <<< "$changed")
  echo "$(head -n "$most" <<< "$changed" | grep -c .) of $(grep -c . <<< "$changed") changed sources"
  # The compile commands are g++'s, with -Werror; what clang alone warns of is not an error here.
  head -n "$most" <<< "$changed" | xargs -r -n 1 -P "$(nproc)" \
    clang-tidy -p build/release --quiet --extra-arg=-Wno-error --extra-arg=-Wno-unknown-warning-option
}

# The CUDA build: kernels, backend, the tests that a GPU would run, and one program; and that a build with CUDA starts
# here, whatever the machine has. What g++ compiles comes from ccache, which is told below to know it again.
check_cuda() {  # PRESET
  cmake --preset "$1" &&
    cmake --build --preset "$1" --parallel "$(nproc)" --target cuda_check &&
    "build/$1/tests/backend_test" --gtest_brief=1
}

if ((nightly)); then
  deploy/packages.sh nightly
  check "fetch vocabularies" tests/golden/fetch_vocabularies.sh
  check "fetch templates" tests/golden/fetch_templates.sh
else
  deploy/packages.sh test
fi
# Builds of several presets share objects: paths are hashed as they are seen from the build's folder, and that not at all.
if command -v ccache > /dev/null; then
  [[ -n $(ccache --get-config base_dir) ]] || export CCACHE_BASEDIR=$PWD
  export CCACHE_NOHASHDIR=1
fi

MOEPOOL_TEST_MODEL=$(deploy/fetch_model.sh)
export MOEPOOL_TEST_MODEL
MOEPOOL_CLIENTS=$(tests/clients/environment.sh)
export MOEPOOL_CLIENTS

check "clang-format" check_format
if build release; then
  if ((nightly)); then run_tests release; else run_tests release nightly; fi
  ((fast)) || check "clang-tidy" check_tidy
fi
if ! command -v nvcc > /dev/null && [[ ! -x /usr/local/cuda/bin/nvcc ]]; then
  section "CUDA is not built here: there is no nvcc"
elif ((nightly)); then
  check "CUDA" check_cuda cuda
else
  check "CUDA for sm_89" check_cuda cuda-89
fi
# Whole models for minutes are left to the release build: under a sanitizer they would take an hour and show nothing
# that the smaller tests do not.
if ((!fast)) && build asan; then
  run_tests asan 'nightly|whole_models'
fi
if ((nightly)) && build tsan; then
  run_tests tsan 'nightly|whole_models'
fi
((nightly)) && check "fuzz" tests/fuzz/run.sh 600

printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
((failed == 0 && passed > 0))
