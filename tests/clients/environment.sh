#!/usr/bin/env bash
# Prints the bin folder of a virtual environment with the packages of requirements.txt, made under build/clients the
# first time and when the Python has changed, and brought up to date when these files have. MOEPOOL_CLIENTS, where set,
# is that folder already.
#
#   tests/clients/environment.sh          makes it where it is missing, prints its bin folder
#   tests/clients/environment.sh --lock   resolves requirements.txt anew and writes constraints.txt
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(cd -- "$here/../.." && pwd)
folder="$root/build/clients"

if [[ -n ${MOEPOOL_CLIENTS:-} && $# == 0 ]]; then
  printf '%s\n' "$MOEPOOL_CLIENTS"
  exit 0
fi

# new_environment FOLDER: empty but for pip.
new_environment() {
  if ! python3 -m venv --clear "$1" >&2; then
    echo "environment.sh: python3 makes no virtual environment; on Debian this is in python3-venv" >&2
    exit 1
  fi
}

case "${1:-}" in
  "") ;;
  --lock)
    scratch=$(mktemp -d)
    trap 'rm -rf -- "$scratch"' EXIT
    new_environment "$scratch/venv"
    "$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed \
      --report "$scratch/report.json" -r "$here/requirements.txt" >&2
    python3 - "$scratch/report.json" > "$scratch/constraints.txt" << 'PY'
import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    found = {(i["metadata"]["name"].lower().replace("_", "-"), i["metadata"]["version"])
             for i in json.load(file)["install"]}
print("# Written by environment.sh --lock: all that requirements.txt brings.")
for name, version in sorted(found):
    print(f"{name}=={version}")
PY
    cp -- "$scratch/constraints.txt" "$here/constraints.txt"
    exit 0
    ;;
  *) echo "usage: tests/clients/environment.sh [--lock]" >&2 && exit 2 ;;
esac

mkdir -p -- "$root/build"
# Tests that run side by side may all ask first.
exec 9> "$folder.lock"
flock 9
python=$(python3 -c 'import sys; print(sys.executable, sys.version)')
wanted=$(sha256sum < <(cat -- "$here/requirements.txt" "$here/constraints.txt"))
if [[ ! -f $folder/made_by || $(< "$folder/made_by") != "$python" ]]; then
  new_environment "$folder"
  printf '%s\n' "$python" > "$folder/made_by"
fi
if [[ ! -f $folder/made_from || $(< "$folder/made_from") != "$wanted" ]]; then
  echo "environment.sh: installing the clients' packages into $folder" >&2
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -r "$here/requirements.txt" \
    -c "$here/constraints.txt" >&2
  printf '%s\n' "$wanted" > "$folder/made_from"
fi
printf '%s\n' "$folder/bin"
