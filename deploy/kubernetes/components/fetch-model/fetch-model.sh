#!/bin/sh
# Fetches MODEL_URL to the file named, unless it is there already; nothing but the file with MODEL_SHA256 gets that name.
set -eu
file=$1
if [ -f "$file" ] && echo "$MODEL_SHA256  $file" | sha256sum -c - > /dev/null 2>&1; then
  echo "$file is there"
  exit 0
fi
mkdir -p "$(dirname "$file")"
curl --fail --location --retry 5 --continue-at - --output "$file.part" "$MODEL_URL"
if ! echo "$MODEL_SHA256  $file.part" | sha256sum -c - > /dev/null 2>&1; then
  echo "fetch-model: $MODEL_URL has SHA-256 $(sha256sum "$file.part" | cut -d ' ' -f 1), expected $MODEL_SHA256" >&2
  rm -f "$file.part"
  exit 1
fi
chmod 644 "$file.part"
mv "$file.part" "$file"
