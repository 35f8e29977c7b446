#!/usr/bin/env python3
"""Stands for every program that compare.py starts, under whose name it is linked; prints what these printed once.

The state folder beside it, `state`, counts calls of each program; a file state/fail-PROGRAM makes that program fail where
its arguments hold the file's text, and state/hang-PROGRAM makes it wait until it is killed.
"""

import http.server
import json
import os
import pathlib
import sys
import time

HERE = pathlib.Path(sys.argv[0]).parent
SAMPLES = pathlib.Path(__file__).resolve().parent
NAME = pathlib.Path(sys.argv[0]).name
ARGS = sys.argv[1:]


def after(flag):
    return ARGS[ARGS.index(flag) + 1]


def sample(name):
    sys.stdout.write((SAMPLES / name).read_text(encoding="utf-8"))


class Handler(http.server.BaseHTTPRequestHandler):
    """Healthy and ready, whatever is asked."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(200)
        self.end_headers()


def serve(port, ready=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if ready:
        print(json.dumps({"ready": True, ready: f"127.0.0.1:{server.server_address[1]}"}), flush=True)
    server.serve_forever()


def moepool():
    if ARGS[0] == "synth":
        pathlib.Path(after("--out")).write_bytes(bytes(1 << 16))
    elif ARGS[:2] == ["bench", "kernels"]:
        sample("bench_kernels.json")
    elif ARGS[:2] == ["bench", "serve"]:
        sample("bench_serve.json")
    else:
        report = json.loads((SAMPLES / "bench_engine.json").read_text(encoding="utf-8"))
        report["results"] = [r for r in report["results"] if f"--{r['phase']}" in ARGS]
        print(json.dumps(report))


def main():
    with open(HERE / "state" / f"calls-{NAME}", "a", encoding="utf-8") as calls:
        calls.write(f"{os.getpid()} {' '.join(ARGS)}\n")
    failing = HERE / "state" / f"fail-{NAME}"
    if failing.exists() and failing.read_text(encoding="utf-8") in " ".join(ARGS):
        sys.exit("told to fail")
    while (HERE / "state" / f"hang-{NAME}").exists():
        time.sleep(0.01)
    programs = {
        "moepool": moepool,
        "moepool-router": lambda: serve(0, "address"),
        "moepool-gateway": lambda: serve(0, "http_address"),
        "moepool-expert-worker": lambda: serve(0, "address"),
        "llama-server": lambda: serve(int(after("--port"))),
        "ggml-rpc-server": lambda: serve(int(after("-p"))),
        "llama-bench": lambda: sample("llama_bench.json"),
        "llama-batched-bench": lambda: sample("llama_batched_bench.txt"),
    }
    programs[NAME]()


if __name__ == "__main__":
    main()
