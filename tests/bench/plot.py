#!/usr/bin/env python3
"""Draws docs/throughput.svg and docs/latency.svg from the results of compare.sh.

    tests/bench/plot.py [--results build/compare] [--out docs] [--type q4_0]

Throughput by streams needs the rows decode and streams, latency by load the row load. Needs matplotlib.
"""

import argparse
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from comparison.rows import IK, LLAMA_CPP, LOADS, MODELS, STREAMS  # noqa: E402
from comparison.store import Store  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = (LLAMA_CPP, IK)
INK = {"moepool": "#1b6ca8", LLAMA_CPP: "#b5532a", IK: "#6b7a3a"}


def medians(store, side, rows, dtype, against, metric, arguments):
    """Points (argument, median of the metric) of those arguments that were measured. side: ours or theirs."""
    points = []
    for argument in arguments:
        values = [record[side][metric(argument)] for row in rows
                  for record in store.measured(row=row, model=MODELS[against], type=dtype, against=against)
                  if record[side] and metric(argument) in record[side]]
        if values:
            points.append((argument, statistics.median(values)))
    return points


def panels(store, dtype, rows, metrics, arguments):
    """For each metric, {name: points}, on both models: a peer's own one beside ours."""
    drawn = []
    for words, metric in metrics:
        lines = {}
        for against in PEERS:
            model = MODELS[against]
            for name, side in ((f"moepool, {model}", "ours"), (f"{against}, {model}", "theirs")):
                points = medians(store, side, rows, dtype, against, metric, arguments)
                if points:
                    lines[name] = (points, INK["moepool" if side == "ours" else against], "-" if against == LLAMA_CPP else "--")
        drawn.append((words, lines))
    return drawn


def draw(pyplot, path, title, x_words, drawn, arguments, logarithmic):
    figure, axes = pyplot.subplots(1, len(drawn), figsize=(4.6 * len(drawn), 3.6), squeeze=False)
    for axis, (words, lines) in zip(axes[0], drawn):
        for name, (points, ink, dash) in lines.items():
            axis.plot(*zip(*points), color=ink, linestyle=dash, marker="o", markersize=3.5, label=name)
        axis.set_xscale("log", base=2)
        axis.set_xticks(arguments, [str(n) for n in arguments])
        axis.set_xlabel(x_words)
        axis.set_ylabel(words)
        if logarithmic:
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    # Without the time of drawing, so that the same results give the same file.
    figure.savefig(path, metadata={"Date": None})
    print(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "build/compare")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs")
    parser.add_argument("--type", default="q4_0")
    options = parser.parse_args()
    try:
        import matplotlib
    except ImportError:
        sys.exit("plot.py: needs matplotlib: python3 -m venv VENV && VENV/bin/pip install matplotlib, then VENV/bin/python plot.py")
    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "moepool"
    from matplotlib import pyplot

    store = Store(options.results / "results.jsonl")
    streams = (1, *STREAMS)
    throughput = panels(store, options.type, ("decode", "streams"), [
        ("tokens/s in total", lambda n: f"streams_{n}" if n > 1 else "decode_1")], streams)
    latency = panels(store, options.type, ("load",), [
        ("median time to first token, ms", lambda n: f"ttft_p50_ms_{n}"),
        ("median time per output token, ms", lambda n: f"tpot_p50_ms_{n}"),
        ("tokens/s out in total", lambda n: f"output_tokens_per_s_{n}")], LOADS)
    for name, title, x_words, drawn, arguments, logarithmic in (
            ("throughput.svg", f"Decode, {options.type.upper()}", "streams", throughput, streams, False),
            ("latency.svg", f"Closed loop, 128 tokens in, 64 out, {options.type.upper()}", "clients", latency, LOADS, True)):
        if any(lines for _, lines in drawn):
            draw(pyplot, options.out / name, title, x_words, drawn, arguments, logarithmic)
        else:
            print(f"plot.py: {options.results} has no figures for {name}", file=sys.stderr)


if __name__ == "__main__":
    main()
