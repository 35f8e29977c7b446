#!/usr/bin/env bash
# Rules of the source tree that no compiler checks. Prints each line that breaks one; fails where there is any.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

broken=0
# forbid RULE PATTERN EXCEPT FOLDER...: no source in the folders matches PATTERN, but for paths that match EXCEPT.
forbid() {
  local rule=$1 pattern=$2 except=$3 found
  shift 3
  found=$(grep -rnE --include='*.h' --include='*.cc' --include='*.cu' --include='*.cuh' -- "$pattern" "$@" |
    grep -vE "^($except):" || true)
  if [[ -n $found ]]; then
    printf '%s\n%s\n\n' "$rule:" "$found"
    broken=1
  fi
}

sources=(common router expert_worker gateway tools)
speaks_grpc='common/rpc/.*|common/transport/grpc_[a-z_]*\.(h|cc)|.*_(service|client)\.(h|cc)|(.*/)?main\.cc'

forbid "gRPC outside *_service, *_client, main.cc, the gRPC transport and common/rpc" \
  '#include.*(grpcpp/|\.grpc\.pb\.h)' "$speaks_grpc" "${sources[@]}"
forbid "CUDA headers outside .cu and cuda_* files" \
  '#include *[<"](cuda|cublas|curand|nccl|nvrtc)[a-zA-Z0-9_]*(\.h|/)' '.*\.cuh?|(.*/)?cuda_[^/]*' "${sources[@]}"
# Debian's abseil is not built for ThreadSanitizer, which would report races where there are none.
forbid "abseil's synchronization in the core; common/base/mutex.h has it" \
  '#include.*absl/synchronization/' "$speaks_grpc" common router expert_worker gateway tests/unit
forbid "intrinsics outside the ISA's own files" \
  '#include.*(immintrin|x86intrin|arm_neon)\.h' 'common/kernels/cpu/(avx2|avx512|neon)[a-z_]*\.(h|cc)' "${sources[@]}"
forbid "skipped or unfinished places" \
  'GTEST_SKIP|DISABLED_|TODO|FIXME' '-' "${sources[@]}" tests

long=$(find "${sources[@]}" tests \( -name '*.h' -o -name '*.cc' -o -name '*.cu' \) -exec wc -l {} + |
  awk '$2 != "total" && $1 > 500 { print "  " $2 ": " $1 " lines" }')
if [[ -n $long ]]; then
  printf 'files over 500 lines:\n%s\n' "$long"
  broken=1
fi
exit "$broken"
