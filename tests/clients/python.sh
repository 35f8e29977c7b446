#!/usr/bin/env bash
# Runs Python with the packages of requirements.txt: tests/clients/python.sh PROGRAM ARGUMENT…
set -euo pipefail
bin=$("$(dirname -- "${BASH_SOURCE[0]}")/environment.sh")
exec "$bin/python" -B "$@"
