#!/usr/bin/env python3
"""Measures moepool against llama.cpp and ik_llama.cpp on the same files and CPUs, in turn, and says which goals are met.

Peers are given as folders of binaries (llama-bench, llama-batched-bench, llama-server, and ggml-rpc-server of llama.cpp);
nothing of theirs is built here. Ours is a gateway, a router and two workers over shared memory. Results are JSON lines in
--results; what is there is not measured again, so that an interrupted run goes on where it was.
"""

import argparse
import os
import pathlib
import shutil
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from comparison.children import Children, MeasurementError  # noqa: E402
from comparison.cluster import Moepool  # noqa: E402
from comparison.goals import goals, verdict  # noqa: E402
from comparison.peers import Peer  # noqa: E402
from comparison.report import fill_markdown, text_table  # noqa: E402
from comparison.rows import (DEFAULT_ROWS, IK, LLAMA_CPP, MACHINE, MODELS, ROWS, SMALL_MODELS, TOGETHER_ROWS,  # noqa: E402
                             Measurer, plan)
from comparison.shapes import MATRIX_TYPES, SHAPES  # noqa: E402
from comparison.store import Store  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMOLLM = pathlib.Path.home() / ".cache/moepool/models/SmolLM2-135M-Instruct.Q4_1.gguf"
SPARE_BYTES = 2 << 30
CPUS = 2


def words(allowed):
    def parse(text):
        chosen = text.split(",")
        for word in chosen:
            if word not in allowed:
                raise argparse.ArgumentTypeError(f"'{word}' is none of {', '.join(allowed)}")
        return tuple(word for word in allowed if word in chosen)
    return parse


def folder(text):
    path = pathlib.Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"no folder {text}")
    return path.absolute()


def parse_args(argv):
    parser = argparse.ArgumentParser(prog="compare.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=folder, help="folder of llama.cpp's binaries; without it, no ratio to it")
    parser.add_argument("--fork", type=folder, help="folder of ik_llama.cpp's binaries; without it, no ratio to it")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin", help="folder of ours")
    parser.add_argument("--rows", type=words(ROWS), default=DEFAULT_ROWS,
                        help=",".join(ROWS) + "; all but load, which has no goal")
    parser.add_argument("--types", type=words(tuple(MATRIX_TYPES)), default=tuple(MATRIX_TYPES), help=",".join(MATRIX_TYPES))
    parser.add_argument("--reps", type=int, help="pairs of each row; 3, with --full 5")
    parser.add_argument("--full", action="store_true", help="every row in every type, all repetitions")
    parser.add_argument("--minutes", type=float, help="begin nothing that would take longer in all; 58, with --full no limit")
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "build/compare",
                        help="folder of results and logs; model files are made and deleted there")
    parser.add_argument("--smollm", type=pathlib.Path, default=SMOLLM, help="SmolLM2-135M-Instruct Q4_1")
    parser.add_argument("--cpus", help="CPUs of all processes, such as 0,1; the first two that there are")
    parser.add_argument("--small", action="store_true", help="tiny models in place of the large: tries the set-up only")
    parser.add_argument("--report", action="store_true", help="measure nothing: print what is in --results")
    parser.add_argument("--markdown", type=pathlib.Path, metavar="FILE", nargs="+", default=(),
                        help="and fill in the tables of these pages, from all results that there are")
    options = parser.parse_args(argv)
    options.reps = options.reps or (5 if options.full else 3)
    options.minutes = options.minutes or (float("inf") if options.full else 58)
    options.models = SMALL_MODELS if options.small else MODELS
    options.results = options.results.absolute()
    allowed = sorted(os.sched_getaffinity(0))
    options.cpus = [int(cpu) for cpu in options.cpus.split(",")] if options.cpus else allowed[:CPUS]
    if not set(options.cpus) <= set(allowed):
        parser.error(f"--cpus {options.cpus}: this machine lets us use {allowed}")
    return options


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Comparison:
    """Runs the plan, one model file at a time."""

    def __init__(self, options, children, store):
        self._options = options
        self._store = store
        self._until = time.monotonic() + 60 * options.minutes
        self._took_s = {}  # what a repetition of rows took in this run
        threads = len(options.cpus)
        self._cache = options.results / "cache"
        self._moepool = Moepool(options.bin.absolute(), threads, children, self._cache)
        self._peers = {name: Peer(path, threads, children, fork=name == IK)
                       for name, path in ((LLAMA_CPP, options.peer), (IK, options.fork)) if path}
        smollm = options.smollm.is_file()
        if "smollm" in options.rows and not smollm:
            say(f"no {options.smollm}: without the row smollm")
        sessions = plan(options.rows, options.types, options.reps, options.full, smollm, options.models)
        self.sessions = [s for s in sessions if s.against == MACHINE or s.against in self._peers or
                         (s.against == LLAMA_CPP and s.rows[0] != "rpc")]

    def check_programs(self):
        self._moepool.needs()
        for session in self.sessions:
            if session.against not in self._peers:
                continue
            programs = ["llama-bench"]
            if session.against == LLAMA_CPP:
                programs += ["llama-batched-bench"] + (["ggml-rpc-server"] if "rpc" in session.rows else [])
            if {"serve", "load"} & set(session.rows) or ("streams" in session.rows and session.against == IK):
                programs.append("llama-server")
            self._peers[session.against].needs(*programs)

    def run(self):
        for number, model, dtype in self._visits():
            work = [(session, rep, group) for session, rep in self._work(number, model, dtype)
                    for group in self._groups(self._pending(session, rep))]
            if not any(self._fits(session, group) for session, _, group in work):
                continue
            path = self._file(model, dtype)
            try:
                self._make(model, dtype, path)
                self._measure_limits(model, dtype, path.stat().st_size)
                self._measure(path, work)
            except MeasurementError as error:  # of the model; those of rows are caught where they are measured
                say(f"FAILED: {model} {dtype}: {error}")
                for session, rep, group in work:
                    self._fail(session, rep, group, error)
            finally:
                if model in SHAPES:
                    path.unlink(missing_ok=True)
                shutil.rmtree(self._cache, ignore_errors=True)
        if any(self._pending(session, rep) for session in self.sessions for rep in range(session.reps)):
            say("not all is measured; the same command goes on from here")

    def _visits(self):
        """(pass, model, type): all models once for each repetition, so that an early end leaves figures of every goal, and
        once more for what has none."""
        files = dict.fromkeys((s.model, s.dtype) for s in self.sessions)
        return [(number, *file) for number in range(self._options.reps + 1) for file in files]

    def _work(self, number, model, dtype):
        """(session, repetition) of a visit; those without a goal have all their repetitions in the last pass."""
        last = number == self._options.reps
        return [(session, rep) for session in self.sessions if (session.model, session.dtype) == (model, dtype)
                for rep in range(session.reps) if session.has_goals != last and (last or rep == number)]

    def _fits(self, session, rows):
        """Whether there is time for what a repetition of these rows took before; what was not measured yet may be begun."""
        return time.monotonic() + self._took_s.get((session, tuple(rows)), 0) < self._until

    def _measure(self, path, work):
        measurer = Measurer(self._moepool, self._peers, path)
        try:
            for session, rep, group in work:
                if self._fits(session, group):
                    began = time.monotonic()
                    self._measure_rows(measurer, session, rep, group)
                    self._took_s[session, tuple(group)] = time.monotonic() - began
        finally:
            measurer.close()

    def _measure_rows(self, measurer, session, rep, rows):
        key = {"model": session.model, "type": session.dtype, "against": session.against, "rep": rep}
        say(f"{session.model} {session.dtype} {session.against} {rep + 1}/{session.reps}: {', '.join(rows)}")
        try:
            for row, ours, theirs in measurer.measure(session, rows):
                self._store.add({"row": row, **key, "ours": ours, "theirs": theirs, "time": int(time.time())})
                say(f"  {row}: " + "; ".join(f"{who} {brief(found)}" for who, found in (
                    ("ours", ours), (session.against, theirs)) if found))
        except MeasurementError as error:
            say(f"  FAILED: {error}")
            measurer.close()
            done = {r["row"] for r in self._store.measured(**key)}
            self._fail(session, rep, [row for row in rows if row not in done], error)

    def _fail(self, session, rep, rows, error):
        for row in rows:
            self._store.add({"row": row, "model": session.model, "type": session.dtype, "against": session.against,
                             "rep": rep, "error": str(error), "time": int(time.time())})

    @staticmethod
    def _groups(rows):
        shared = [row for row in rows if row in TOGETHER_ROWS]
        return ([shared] if shared else []) + [[row] for row in rows if row not in shared]

    def _pending(self, session, rep):
        """Rows of which this repetition has no figures, or none of a peer that is here by now."""
        def done(row):
            found = self._store.measured(row=row, model=session.model, type=session.dtype, against=session.against, rep=rep)
            return any(r["theirs"] or session.against not in self._peers for r in found)
        return [row for row in session.rows if not done(row)]

    def _measure_limits(self, model, dtype, file_bytes):
        key = {"row": "limits", "model": model, "type": dtype, "against": MACHINE, "rep": 0}
        if self._store.measured(**key):
            return
        try:
            limits = self._moepool.limits()
            self._store.add({**key, "ours": limits, "theirs": None, "file_bytes": file_bytes, "time": int(time.time())})
            say(f"limits: {brief(limits)}")
        except MeasurementError as error:
            say(f"limits: FAILED: {error}")
            self._store.add({**key, "error": str(error), "time": int(time.time())})

    def _file(self, model, dtype):
        return self._options.results / f"{model}-{dtype}.gguf" if model in SHAPES else self._options.smollm.absolute()

    def _make(self, model, dtype, path):
        """Makes the model's file, if it is synthetic. MeasurementError: no room for it and its repacked copy."""
        if model not in SHAPES:
            return
        shape = SHAPES[model]
        self._options.results.mkdir(parents=True, exist_ok=True)
        needed = int(2 * shape.file_bytes(dtype)) + SPARE_BYTES
        free = shutil.disk_usage(self._options.results).free
        if free < needed:
            raise MeasurementError(f"{self._options.results} has {free >> 20} MiB free; {model} {dtype} and its repacked copy "
                                   f"take {needed >> 20} MiB")
        say(f"making {path.name}")
        self._moepool.tool("synth", *shape.synth_flags(dtype), "--out", path)


def brief(found):
    return ", ".join(f"{name} {value:.4g}" for name, value in found.items())


def report(options, store, sessions):
    """Verdicts of the planned goals, and of those of which there are figures."""
    planned = {(row, s.model, s.dtype, s.against) for s in sessions for row in s.rows}
    verdicts = [verdict(goal, store) for goal in goals(options.types, options.models)]
    shown = [v for v in verdicts if v.value is not None or
             (v.goal.row, v.goal.model, v.goal.dtype, v.goal.against) in planned]
    print(text_table(shown))
    every = [verdict(goal, store) for goal in goals(tuple(MATRIX_TYPES), options.models)]
    for page in options.markdown:
        fill_markdown(page, [v for v in every if v.value is not None], store, options.models[LLAMA_CPP])
    return all(v.word == "met" for v in shown)


def interrupted(*_):
    raise KeyboardInterrupt


def main(argv):
    options = parse_args(argv)
    signal.signal(signal.SIGTERM, interrupted)
    try:
        store = Store(options.results / "results.jsonl")
        if options.report:
            return 0 if report(options, store, []) else 1
        with Children(options.cpus, options.results / "logs") as children:
            comparison = Comparison(options, children, store)
            comparison.check_programs()
            comparison.run()
        return 0 if report(options, store, comparison.sessions) else 1
    except (MeasurementError, ValueError, OSError) as error:
        print(f"compare.sh: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("compare.sh: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
