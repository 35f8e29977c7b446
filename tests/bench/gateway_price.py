#!/usr/bin/env python3
"""What a gateway costs: starts a router, two workers and a gateway, and runs `moepool bench gateway` on them.

    tests/bench/gateway_price.py [--model FILE] [--bin build/release/bin] [FLAG OF moepool bench gateway…]

The model is SmolLM2 (deploy/fetch_model.sh) unless one is named. The router keeps no prefixes, so that each prompt is
computed anew for every door. Prints what the command prints.
"""

import argparse
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--bin", default=str(ROOT / "build" / "release" / "bin"))
    flags, rest = parser.parse_known_args()
    os.environ["MOEPOOL_BIN"] = flags.bin
    sys.path.insert(0, str(ROOT / "tests" / "e2e"))
    import cluster
    model = flags.model or subprocess.run([ROOT / "deploy" / "fetch_model.sh"], stdout=subprocess.PIPE, check=True,
                                          text=True).stdout.strip()
    pool = cluster.Cluster(model, router_flags=("--prefix-cache", "off"), kv_memory="1GiB")
    try:
        made = cluster.tool("bench", "gateway", "--router", pool.address, "--http", pool.client.http_address, "--grpc",
                            pool.client.grpc_address, *rest, timeout_s=3600)
        pool.stop()
    finally:
        cluster.kill_all(pool.processes)
    sys.stdout.buffer.write(made.stdout)
    sys.stderr.buffer.write(made.stderr)
    return made.returncode


if __name__ == "__main__":
    sys.exit(main())
