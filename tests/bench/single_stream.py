#!/usr/bin/env python3
"""Prefill and decode of one stream through a running gateway, in tokens/s; beside llama.cpp where its llama-bench is named.

    deploy/quickstart.sh
    tests/bench/single_stream.py [--http 127.0.0.1:8000] [--reps 7] [--peer LLAMA_BENCH --model FILE --threads 2]

Each repetition measures ours and then the peer (A B A B ...), so that a machine whose speed drifts treats both alike; the
ratios are taken pair by pair and medians are printed. Ours is measured from outside, over HTTP: prefill is the time to the
first token of a 512-token prompt, decode the 127 tokens after it. llama-bench measures inside its process.
"""

import argparse
import http.client
import json
import pathlib
import statistics
import subprocess
import time

PREFILL = 512
DECODE = 128
TEXT = pathlib.Path(__file__).resolve().parent.parent / "golden" / "opticks.txt"


def post(host, path, body):
    connection = http.client.HTTPConnection(host, timeout=600)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    return connection, connection.getresponse()


def tokens_of(host, text):
    _, response = post(host, "/tokenize", {"text": text})
    return len(json.load(response)["ids"])


def prompt_of(host, text, tokens):
    """The longest prefix of `text`, cut at a space, with at most `tokens` tokens; and how many it has."""
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        if tokens_of(host, text[:middle]) <= tokens:
            low = middle
        else:
            high = middle
    return text[:low], tokens_of(host, text[:low])


def ours(host, prompt, prompt_tokens):
    begin = time.perf_counter()
    _, response = post(host, "/infer", {"prompt": prompt, "raw": True, "max_tokens": DECODE, "stream": True})
    first = last = None
    usage = {}
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event.get("text"):
            last = time.perf_counter()
            first = first or last
        usage = event.get("usage") or usage
    made = usage["completion_tokens"]
    return prompt_tokens / (first - begin), (made - 1) / (last - first) if made > 1 else float("nan")


def peer(options):
    command = [options.peer, "-m", options.model, "-t", str(options.threads), "-p", str(PREFILL), "-n", str(DECODE), "-r", "1",
               "-o", "json"]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    prefill = next(r["avg_ts"] for r in rows if r["n_prompt"] == PREFILL)
    decode = next(r["avg_ts"] for r in rows if r["n_gen"] == DECODE and r["n_prompt"] == 0)
    return prefill, decode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--http", default="127.0.0.1:8000")
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument("--peer", help="path of llama.cpp's llama-bench")
    parser.add_argument("--model")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.peer and not options.model:
        parser.error("--peer needs --model")

    text = TEXT.read_text(encoding="utf-8")
    rows = []
    for i in range(options.reps + 1):  # the first is not counted
        prompt, tokens = prompt_of(options.http, text[i * 3000:i * 3000 + 4000], PREFILL)
        row = [ours(options.http, prompt, tokens), peer(options) if options.peer else None]
        if i > 0:
            rows.append(row)
    for name, index in (("prefill", 0), ("decode", 1)):
        mine = [row[0][index] for row in rows]
        line = f"{name}: {statistics.median(mine):.1f} tokens/s ({min(mine):.1f} to {max(mine):.1f})"
        if options.peer:
            theirs = [row[1][index] for row in rows]
            ratios = [a / b for a, b in zip(mine, theirs)]
            line += (f"; peer {statistics.median(theirs):.1f} ({min(theirs):.1f} to {max(theirs):.1f})"
                     f"; ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        print(line)


if __name__ == "__main__":
    main()
