#!/usr/bin/env bash
# moepool against llama.cpp and ik_llama.cpp, on the same files and cores and in the same run: medians, ratios, and whether
# each goal is met. `--help` lists the options; `--selftest` checks the parts that need neither peers nor models.
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")

python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' || { echo "compare.sh: needs Python 3.9" >&2 && exit 2; }
for program in setpriv taskset; do
  command -v "$program" > /dev/null || { echo "compare.sh: no $program, of util-linux" >&2 && exit 2; }
done
if [[ ${1:-} == --selftest ]]; then
  exec python3 -B "$here/compare_test.py" "${@:2}"
fi
exec python3 -B "$here/compare.py" "$@"
