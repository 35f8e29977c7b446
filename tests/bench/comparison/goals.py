"""The goal table: what is to be reached, and whether the results reach it. Pure functions of records.

A ratio is taken within each repetition, ours over theirs, and the median of these is compared; a fraction of the machine's
limits or of ourselves in another arrangement is the median over the repetitions.
"""

import dataclasses
import math
import statistics

from comparison.rows import IK, LLAMA_CPP, MACHINE, MODELS
from comparison.shapes import K_QUANTS, SHAPES


@dataclasses.dataclass(frozen=True)
class Goal:
    """metric: of a record of (row, model, type, against). of: "ratio" to the peer, "value" itself, or a fraction of
    "read_bandwidth" or "int8_peak", for which the metric is a rate in tokens/s."""
    row: str
    model: str
    dtype: str
    against: str
    metric: str
    bound: float
    at_most: bool = False
    of: str = "ratio"

    def holds(self, value):
        return value <= self.bound if self.at_most else value >= self.bound


@dataclasses.dataclass(frozen=True)
class Verdict:
    """ours, theirs, value: medians; None where nothing was measured, and then `missing` says why."""
    goal: Goal
    value: float = None
    ours: float = None
    theirs: float = None
    spread: tuple = ()
    missing: str = ""
    pairs: int = 0

    @property
    def word(self):
        if self.value is None:
            return "not measured"
        return "met" if self.goal.holds(self.value) else "MISSED"


def goals(types, models=MODELS):
    """All goals: for the large models in these types, and the others."""
    found = []

    def add(row, model, dtype, against, metric, bound, **more):
        found.append(Goal(row, model, dtype, against, metric, bound, **more))

    for dtype in types:
        for against, one, streams, prefill in ((LLAMA_CPP, 1.5, (2.7, 3.5, 5), 4.5),
                                               (IK, 1.0 if dtype == "q8_0" else 1.15, (1.15, 1.6, 2.5), 1.4)):
            model = models[against]
            add("decode", model, dtype, against, "decode_1", one)
            for n, bound in zip((8, 16, 32), streams):
                add("streams", model, dtype, against, f"streams_{n}", bound)
            for n in (512, 2048):
                add("prefill", model, dtype, against, f"prefill_{n}", prefill)
        model = models[LLAMA_CPP]
        add("decode", model, dtype, LLAMA_CPP, "decode_1", 0.65, of="read_bandwidth")
        for n, bound in ((512, 0.40), (2048, 0.45)):
            add("prefill", model, dtype, LLAMA_CPP, f"prefill_{n}", 0.30 if dtype in K_QUANTS else bound, of="int8_peak")

    for metric, bound in (("decode_1", 1.0), ("streams_16", 1.7), ("prefill_512", 2.0)):
        add("tiny", "moe16-tiny", "q4_0", LLAMA_CPP, metric, bound)
    for against, decode, prefill in ((LLAMA_CPP, 1.1, 1.7), (IK, 1.0, 1.1)):
        add("smollm", "smollm2", "q4_1", against, "decode_1", decode)
        add("smollm", "smollm2", "q4_1", against, "prefill_512", prefill)

    for dtype in types:
        for metric, bound in (("decode_1", 2.5), ("prefill_512", 8), ("streams_16", 8)):
            add("rpc", models[LLAMA_CPP], dtype, LLAMA_CPP, metric, bound)
        for against, rate, ttft in ((LLAMA_CPP, 5, 0.25), (IK, 1.5, 0.5)):
            add("serve", models[against], dtype, against, "output_tokens_per_s", rate)
            add("serve", models[against], dtype, against, "ttft_p50_ms", ttft, at_most=True)
        for row, metric, bound, at_most in (("distribution", "shm_price", 0.05, True),
                                            ("distribution", "grpc_price", 0.20, True),
                                            ("batching", "batching_ratio", 1.5, False),
                                            ("memory", "memory_ratio", 1.1, True),
                                            ("startup", "second_start_ratio", 1.5, True),
                                            ("startup", "first_start_ratio", 4.0, True)):
            add(row, models[LLAMA_CPP], dtype, MACHINE, metric, bound, at_most=at_most, of="value")
    return found


def fraction(goal, tokens_per_s, limits):
    """Of the machine's limit that a rate amounts to."""
    shape = SHAPES[goal.model]
    if goal.of == "int8_peak":  # the head computes one row a prompt
        return tokens_per_s * shape.token_ops(head=False) / (limits["int8_gops"] * 1e9)
    # The context of the bench grows from 16 to 144 positions.
    return tokens_per_s * shape.step_bytes(goal.dtype, 1, positions=80) / (limits["read_gb_per_s"] * 1e9)


def limits_of(store):
    """The best that the bench measured of each limit, over all its runs here."""
    found = {}
    for record in store.measured(row="limits"):
        for name, value in record["ours"].items():
            found[name] = max(value, found.get(name, -math.inf))
    return found


def verdict(goal, store):
    where = {"row": goal.row, "model": goal.model, "type": goal.dtype, "against": goal.against}
    records = [r for r in store.measured(**where) if goal.metric in r["ours"]]
    if goal.of == "ratio":
        records = [r for r in records if r["theirs"] and goal.metric in r["theirs"]]
    if not records:
        return Verdict(goal, missing=store.last_error(**where) or "")
    ours = [r["ours"][goal.metric] for r in records]
    theirs = None
    if goal.of == "ratio":
        other = [r["theirs"][goal.metric] for r in records]
        theirs = statistics.median(other)
        values = [a / b for a, b in zip(ours, other)]
    elif goal.of == "value":
        values = ours
    else:
        limits = limits_of(store)
        if not limits:
            return Verdict(goal, ours=statistics.median(ours), missing=store.last_error(row="limits") or "no limits")
        values = [fraction(goal, rate, limits) for rate in ours]
    return Verdict(goal, statistics.median(values), statistics.median(ours), theirs, (min(values), max(values)),
                   pairs=len(values))
