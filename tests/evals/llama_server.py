#!/usr/bin/env python3
"""llama.cpp's server from the PyPI package xllamacpp, to be measured beside ours on the same file.

    python3 -m venv V && V/bin/pip install xllamacpp==2026.10.11549
    V/bin/python tests/evals/llama_server.py --model "$(deploy/fetch_model.sh)" --port 8090

Serves until it is interrupted; --parallel requests at a time, each with --context-tokens.
"""

import argparse
import os
import signal

import xllamacpp


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--context-tokens", type=int, default=2048)
    flags = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = flags.model
    params.hostnames = ["127.0.0.1"]
    params.port = flags.port
    params.n_parallel = flags.parallel
    params.n_ctx = flags.context_tokens * flags.parallel
    params.cpuparams.n_threads = flags.threads
    params.cpuparams_batch.n_threads = flags.threads
    # As the golden files of tests/golden were made: one order of additions for keys and values.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup = True
    server = xllamacpp.Server(params)
    print(f"serving {flags.model} at {server.listening_address}/v1", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
