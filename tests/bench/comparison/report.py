"""The results for people: the goal table on a terminal and in docs/performance.md, and the roofline."""

import statistics
import time

from comparison.goals import limits_of
from comparison.rows import DECODE_TOKENS, LLAMA_CPP, MACHINE, PREFILL, STREAM_PROMPT, STREAM_TOKENS, STREAMS
from comparison.shapes import MATRIX_TYPES, SHAPES

WORDS = {
    "decode_1": "decode, 1 stream", "output_tokens_per_s": "served, tokens/s out", "ttft_p50_ms": "served, median TTFT, ms",
    "shm_price": "price of two workers over shared memory", "grpc_price": "price of two workers over gRPC",
    "batching_ratio": "continuous over static batches", "memory_ratio": "memory over weights + KV",
    "first_start_ratio": "first start over reading the file", "second_start_ratio": "second start over reading the file",
}
PERCENT = ("shm_price", "grpc_price")


def metric_words(metric):
    name, _, number = metric.partition("_")
    if name == "streams":
        return f"{number} streams, total"
    if name == "prefill":
        return f"prefill of {int(number):,}"
    return WORDS[metric]


def number(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def value_words(goal, value):
    if value is None:
        return ""
    if goal.metric in PERCENT or goal.of in ("read_bandwidth", "int8_peak"):
        return f"{100 * value:.1f} %"
    return f"{value:.2f}×"


def model_words(goal):
    return f"{goal.model} {goal.dtype.upper()}"


def cells(verdict):
    goal = verdict.goal
    against = {"ratio": goal.against, "value": "", "read_bandwidth": "read bandwidth", "int8_peak": "int8 peak"}[goal.of]
    ours = "" if goal.of == "value" else number(verdict.ours)
    spread = " to ".join(value_words(goal, end) for end in verdict.spread)
    prefix = "rpc: " if goal.row == "rpc" else ""
    return [model_words(goal), prefix + metric_words(goal.metric), against, ours, number(verdict.theirs),
            value_words(goal, verdict.value), spread, str(verdict.pairs), ("≤ " if goal.at_most else "≥ ") +
            value_words(goal, goal.bound), verdict.word]


HEADS = ["model", "what", "to", "ours", "theirs", "measured", "range", "pairs", "goal", ""]


def text_table(verdicts):
    rows = [HEADS] + [cells(v) for v in verdicts]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    lines += [f"not measured: {v.goal.row} {v.goal.model} {v.goal.dtype} {v.goal.metric}: {v.missing}"
              for v in verdicts if v.missing]
    words = [v.word for v in verdicts]
    lines.append(f"{words.count('met')} met, {words.count('MISSED')} missed, {words.count('not measured')} not measured")
    return "\n".join(lines)


def markdown_table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def goal_markdown(verdicts):
    return markdown_table(HEADS, [[*cells(v)[:-1], f"**{v.word}**" if v.word == "MISSED" else v.word] for v in verdicts])


def phases(shape, dtype):
    """(words, metric, tokens of a step, bytes it reads, operations) of each phase."""
    yield "decode, 1 stream", "decode_1", 1, shape.step_bytes(dtype, 1, DECODE_TOKENS // 2), shape.token_ops()
    for n in STREAMS:
        held = n * (STREAM_PROMPT + STREAM_TOKENS // 2)
        yield f"{n} streams", f"streams_{n}", n, shape.step_bytes(dtype, n, held), n * shape.token_ops()
    for n in PREFILL:
        steps = -(-n // 512)
        read = sum(shape.step_bytes(dtype, 512, 512 * (i + 1), head=i == steps - 1) for i in range(steps))
        yield f"prefill of {n:,}", f"prefill_{n}", n, read, n * shape.token_ops(head=False)


def roofline_markdown(store, model, dtype):
    """Bytes and operations of each phase, the rate that the machine's limits allow, and the part of it that we reach."""
    limits, shape = limits_of(store), SHAPES[model]
    rows = []
    for words, metric, tokens, read_bytes, ops in phases(shape, dtype):
        row = [words, f"{shape.experts_read(tokens):.1f}", f"{read_bytes / tokens / 1e6:,.1f}",
               f"{read_bytes / 1e6:,.0f}", f"{ops / tokens / 1e9:.2f}"]
        if limits:
            read_s = read_bytes / (limits["read_gb_per_s"] * 1e9)
            compute_s = ops / (limits["int8_gops"] * 1e9)
            allowed = tokens / max(read_s, compute_s)
            row += ["reads" if read_s > compute_s else "int8 products", number(allowed)]
            measured = [r["ours"][metric] for r in store.measured(model=model, type=dtype, against=LLAMA_CPP)
                        if metric in r["ours"] and r["row"] in ("decode", "streams", "prefill")]
            middle = statistics.median(measured) if measured else None
            row += [number(middle), f"{100 * middle / allowed:.0f} %" if measured else ""]
        else:
            row += [""] * 4
        rows.append(row)
    table = markdown_table(["phase", "experts read a layer", "MB a token", "MB in all", "GOP a token", "bound by",
                            "bound, tokens/s", "measured", "of the bound"], rows)
    sizes = {r["file_bytes"] for r in store.measured(row="limits", model=model, type=dtype)}
    computed = f"Matrices by the formula: {shape.file_bytes(dtype) / 1e6:,.1f} MB"
    return f"{table}\n\n{computed}" + "".join(f"; the whole file: {size / 1e6:,.1f} MB" for size in sorted(sizes)) + "."


def facts_markdown(store, model, dtype):
    """What is not a goal but is to be printed: the exchange, batching, memory, start-up, limits."""
    def median(row, metric, against=MACHINE):
        values = [r["ours"][metric] for r in store.measured(row=row, model=model, type=dtype, against=against)
                  if metric in r["ours"]]
        return statistics.median(values) if values else None

    rows = []

    def add(words, row, *metrics, unit="", scale=1.0):
        values = [median(row, metric) for metric in metrics]
        if all(value is not None for value in values):
            rows.append([words, " / ".join(number(value / scale) for value in values) + unit])

    for name, value in limits_of(store).items():
        rows.append([{"read_gb_per_s": "reads, GB/s", "int8_gops": "int8 products, GOPS"}[name], number(value)])
    for carrier, words in (("shm", "shared memory"), ("grpc", "gRPC")):
        add(f"the exchange's own time a layer over {words}, p50 / p99", "distribution",
            f"{carrier}_exchange_own_p50_us", f"{carrier}_exchange_own_p99_us", unit=" µs")
    add("decode in one process / over shared memory / over gRPC", "distribution", "in_process_decode_1", "shm_decode_1",
        "grpc_decode_1", unit=" tokens/s")
    add("mixed lengths, continuous / static", "batching", "continuous_tokens_per_s", "static_tokens_per_s",
        unit=" tokens/s")
    add("sequences that decode in a step, of all places, continuous / static", "batching", "continuous_utilisation",
        "static_utilisation")
    add("memory of all processes / weights / KV", "memory", "held_bytes", "weight_bytes", "kv_bytes", unit=" GiB",
        scale=1 << 30)
    add("reading the file / first start / second start", "startup", "read_s", "first_start_s", "second_start_s", unit=" s")
    shares = client_shares(store, model, dtype)
    if shares:
        rows.append(["CPU time of the load generator while served, of both cores, " + " / ".join(shares),
                     " / ".join(f"{100 * share:.1f} %" for share in shares.values())])
    return markdown_table(["", ""], rows) if rows else ""


def client_shares(store, model, dtype):
    """{whom it asked: median share}."""
    shares = {}
    for name, side in (("moepool", "ours"), (LLAMA_CPP, "theirs")):
        values = [r[side]["client_cpu_share"] for r in store.measured(row="serve", model=model, type=dtype, against=LLAMA_CPP)
                  if r[side] and "client_cpu_share" in r[side]]
        if values:
            shares[name] = statistics.median(values)
    return shares


SUMMARY_COLUMNS = ("decode_1", "streams_8", "streams_16", "streams_32", "prefill_512", "prefill_2048", "output_tokens_per_s")


def summary_markdown(verdicts):
    """A line for each file and peer: ours, theirs and the ratio of the figures that files have in common."""
    lines = {}
    for v in verdicts:
        goal = v.goal
        if goal.of == "ratio" and goal.row != "rpc" and goal.metric in SUMMARY_COLUMNS:
            line = lines.setdefault((model_words(goal), goal.against), {})
            line[goal.metric] = f"{number(v.ours)} / {number(v.theirs)} = {v.value:.2f}"
    metrics = [metric for metric in SUMMARY_COLUMNS if any(metric in line for line in lines.values())]
    return markdown_table(["model", "peer", *map(metric_words, metrics)],
                          [[*key, *(line.get(metric, "") for metric in metrics)] for key, line in lines.items()])


def when_markdown(store):
    times = [r["time"] for r in store.measured() if "time" in r]
    if not times:
        return ""
    first, last = (time.gmtime(end) for end in (min(times), max(times)))
    return (f"Measured from {time.strftime('%Y-%m-%d %H:%M', first)} to {time.strftime('%Y-%m-%d %H:%M', last)} UTC, "
            f"{len(times) - len(store.measured(row='limits'))} rows.")


def fill_markdown(path, verdicts, store, model):
    """Replaces what stands between <!-- NAME --> and <!-- end --> on a page, by what all results in the store say."""
    page = path.read_text(encoding="utf-8")
    main = next((dtype for dtype in MATRIX_TYPES if store.measured(model=model, type=dtype, against=MACHINE)), "q4_0")
    tables = {"goals": goal_markdown(verdicts), "summary": summary_markdown(verdicts), "when": when_markdown(store),
              "facts": facts_markdown(store, model, main)}
    tables.update({f"roofline {dtype}": roofline_markdown(store, model, dtype) for dtype in MATRIX_TYPES})
    for name, table in tables.items():
        head, mark, rest = page.partition(f"<!-- {name} -->\n")
        if mark:
            _, end, tail = rest.partition("<!-- end -->")
            if not end:
                raise ValueError(f"{path}: <!-- {name} --> has no <!-- end --> after it")
            page = f"{head}{mark}{table}\n{end}{tail}"
    path.write_text(page, encoding="utf-8")
