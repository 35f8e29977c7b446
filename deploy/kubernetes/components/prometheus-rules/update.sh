#!/usr/bin/env bash
# Writes rules.yaml: the groups of deploy/prometheus/rules as one PrometheusRule, as they stand there.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
{
  printf '%s\n' '# Made by update.sh of deploy/prometheus/rules: change it there.' \
    'apiVersion: monitoring.coreos.com/v1' 'kind: PrometheusRule' 'metadata:' '  name: moepool' 'spec:' '  groups:'
  # A group's lines stand two columns further in; what is before "groups:" is each file's own comment.
  for file in ../../../prometheus/rules/*.yaml; do
    sed -n '/^groups:/,$p' "$file" | sed -e '1d' -e 's/^\(.\)/  \1/'
  done
} > rules.yaml
