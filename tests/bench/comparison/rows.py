"""The rows of the goal table, and how each is measured: ours and the peer's in turn, A B A B.

A session is what one model file, one type and one peer have in common; it measures several rows at once, because loading a
model costs more than most measurements. Each repetition of each row is one record.
"""

import dataclasses
import shutil

from comparison.children import MeasurementError
from comparison.cluster import Cluster, anonymous_bytes, read_seconds
from comparison.shapes import SHAPES

LLAMA_CPP = "llama.cpp"
IK = "ik_llama.cpp"
MACHINE = "machine"  # no peer: limits of the machine, or ourselves in another arrangement

# What each peer reads: ik_llama.cpp knows no phimoe.
MODELS = {LLAMA_CPP: "moe16-5b", IK: "mix16-5b"}
SMALL_MODELS = {LLAMA_CPP: "moe16-tiny", IK: "mix16-tiny"}

PREFILL = (512, 2048)
STREAMS = (8, 16, 32)
DECODE_TOKENS = 128
STREAM_PROMPT, STREAM_TOKENS = 16, 32
CLIENTS, REQUESTS, TOKENS_IN, TOKENS_OUT = 16, 32, 128, 64
LOADS = (1, 2, 4, 8, 16)  # clients

ENGINE_ROWS = ("decode", "streams", "prefill")
TOGETHER_ROWS = ("decode", "prefill")  # these share a process of the peer; any other row stands alone, and fails alone
ROWS = (*ENGINE_ROWS, "tiny", "smollm", "rpc", "serve", "distribution", "batching", "memory", "startup", "load")
# "load" has no goal: it is for the plot of latency by load.
DEFAULT_ROWS = ROWS[:-1]


@dataclasses.dataclass(frozen=True)
class Session:
    model: str
    dtype: str
    against: str
    rows: tuple
    reps: int

    @property
    def has_goals(self):
        return self.rows != ("load",)


def plan(rows, types, reps, full, smollm, models):
    """All sessions, those of one file together. Without `full`, the longest are repeated twice at most, and what does not
    depend on the type is measured in the first of them alone."""
    few = reps if full else min(reps, 2)
    engine = tuple(row for row in ENGINE_ROWS if row in rows)
    alone = tuple(row for row in ("distribution", "batching", "memory", "startup") if row in rows)
    sessions = []

    def add(model, dtype, against, wanted, repetitions):
        if wanted:
            sessions.append(Session(model, dtype, against, wanted, repetitions))

    if "tiny" in rows:
        add("moe16-tiny", "q4_0", LLAMA_CPP, ("tiny",), reps)
    if "smollm" in rows and smollm:
        add("smollm2", "q4_1", LLAMA_CPP, ("smollm",), reps)
        add("smollm2", "q4_1", IK, ("smollm",), reps)
    for dtype in types:
        main = dtype == types[0]
        repetitions = reps if full or dtype != "q8_0" else min(reps, 2)
        moe, mix = models[LLAMA_CPP], models[IK]
        add(moe, dtype, LLAMA_CPP, engine, repetitions)
        if main or full:
            add(moe, dtype, MACHINE, alone, few)
            add(moe, dtype, LLAMA_CPP, tuple(row for row in ("rpc", "serve") if row in rows), few)
            add(moe, dtype, LLAMA_CPP, tuple(row for row in ("load",) if row in rows), 1)
        add(mix, dtype, IK, engine, repetitions)
        if main or full:
            add(mix, dtype, IK, tuple(row for row in ("serve",) if row in rows), few)
            add(mix, dtype, IK, tuple(row for row in ("load",) if row in rows), 1)
    return sessions


def numbers(values):
    return ",".join(map(str, values))


class Measurer:
    """Measures one session's rows on one model file. peers: {LLAMA_CPP: Peer, IK: Peer}; either may be absent."""

    def __init__(self, moepool, peers, model_file):
        self._moepool = moepool
        self._peers = peers
        self._file = model_file
        self._cluster = None

    def close(self):
        """Stops the cluster that the repetitions share."""
        if self._cluster is not None:
            self._cluster.__exit__()
            self._cluster = None

    def measure(self, session, rows):
        """One repetition: yields (row, ours, theirs); `theirs` is None where there is no peer to compare with."""
        peer = self._peers.get(session.against)
        together = [row for row in rows if row in TOGETHER_ROWS]
        if together:
            yield from self._decode_and_prefill(peer, together)
        for row in rows:
            if row not in TOGETHER_ROWS:
                ours, theirs = getattr(self, f"_{row}")(session, peer)
                yield row, ours, theirs

    def _ours(self):
        if self._cluster is None:
            self._cluster = Cluster(self._moepool, self._file)
        return self._cluster

    def _bench_ours(self, prefill=(), decode=0, streams=()):
        """By the engine's bench, at the router."""
        flags = []
        if prefill:
            flags += ["--prefill", numbers(prefill)]
        if decode:
            flags += ["--decode", decode]
        if streams:
            flags += ["--streams", numbers(streams), "--stream-prompt", STREAM_PROMPT, "--stream-tokens", STREAM_TOKENS]
        return self._ours().bench(*flags)

    def _bench_peer(self, peer, prefill=(), decode=0, streams=(), extra=()):
        found = {}
        if prefill or decode:
            found.update(peer.bench(self._file, prefill, decode, extra))
        if streams:
            found.update(peer.streams(self._file, streams, STREAM_PROMPT, STREAM_TOKENS, extra))
        return found

    def _both(self, peer, **what):
        ours = self._bench_ours(**what)
        return ours, self._bench_peer(peer, **what) if peer else None

    def _decode_and_prefill(self, peer, rows):
        ours, theirs = self._both(peer, prefill=PREFILL if "prefill" in rows else (),
                                  decode=DECODE_TOKENS if "decode" in rows else 0)
        for row in rows:
            def of_row(found):
                return {name: value for name, value in found.items()
                        if name.startswith(row) or (row == "decode" and name.startswith("exchange"))}
            yield row, of_row(ours), theirs and of_row(theirs)

    def _streams(self, session, peer):
        """Against ik_llama.cpp, ours through the gateway and its server by the same client: its batched bench feeds every
        stream the same token, so that all rows pick the same experts, which no real batch does."""
        if session.against != IK:
            return self._both(peer, streams=STREAMS)

        def bench(port, protocol):
            return self._moepool.bench_served_streams(port, protocol, STREAMS, STREAM_PROMPT, STREAM_TOKENS)
        ours = bench(self._ours().http_port, "moepool")
        return ours, self._of_server(peer, max(STREAMS), STREAM_PROMPT + STREAM_TOKENS, bench)

    def _of_server(self, peer, slots, tokens_a_slot, bench):
        """What bench(port, protocol) makes of the peer's server; None without a peer."""
        if not peer:
            return None
        server = peer.serve(self._file, slots, tokens_a_slot)
        try:
            return bench(server.port, "llama")
        finally:
            server.stop()

    def _tiny(self, _, peer):
        return self._both(peer, prefill=(512,), decode=DECODE_TOKENS, streams=(16,))

    def _smollm(self, _, peer):
        return self._both(peer, prefill=(512,), decode=DECODE_TOKENS)

    def _rpc(self, _, peer):
        what = {"prefill": (512,), "decode": DECODE_TOKENS, "streams": (16,)}
        ours = self._bench_ours(**what)
        if not peer:
            return ours, None
        best = {}
        for split in ("layer", "tensor"):
            with peer.rpc_workers(2) as flags:
                found = self._bench_peer(peer, **what, extra=[*flags, "-sm", split])
            best = {name: max(value, best.get(name, 0)) for name, value in found.items()}
        return ours, best

    def _serve(self, _, peer):
        return self._serve_clients(peer, {"": (CLIENTS, REQUESTS)})

    def _load(self, _, peer):
        return self._serve_clients(peer, {f"_{n}": (n, max(4, 2 * n)) for n in LOADS})

    def _serve_clients(self, peer, loads):
        """loads: suffix of the metrics to (clients, requests)."""
        def bench(port, protocol):
            found = {}
            for suffix, (clients, requests) in loads.items():
                served = self._moepool.bench_serve(port, protocol, clients, requests, TOKENS_IN, TOKENS_OUT)
                found.update({name + suffix: value for name, value in served.items()})
            return found
        ours = bench(self._ours().http_port, "moepool")
        return ours, self._of_server(peer, max(clients for clients, _ in loads.values()), TOKENS_IN + TOKENS_OUT, bench)

    def _distribution(self, *_):
        """One stream over shared memory, in one process, and over gRPC."""
        shared = self._bench_ours(decode=DECODE_TOKENS)
        local = self._moepool.bench_engine("--model", self._file, "--workers", 1, "--threads", self._moepool.threads,
                                           "--decode", DECODE_TOKENS)
        self.close()  # three copies of a model would not fit everywhere
        with Cluster(self._moepool, self._file, transport="grpc") as cluster:
            remote = cluster.bench("--decode", DECODE_TOKENS)
        ours = {"shm_decode_1": shared["decode_1"], "grpc_decode_1": remote["decode_1"],
                "shm_price": local["decode_1"] / shared["decode_1"] - 1,
                "grpc_price": local["decode_1"] / remote["decode_1"] - 1, "in_process_decode_1": local["decode_1"]}
        for carrier, found in (("shm", shared), ("grpc", remote)):
            for quantile in ("p50", "p99"):
                ours[f"{carrier}_exchange_own_{quantile}_us"] = found[f"exchange_own_{quantile}_us"]
        return ours, None

    def _batching(self, *_):
        return self._ours().bench("--batching"), None

    def _memory(self, session, _):
        """After a long prompt and 16 streams, with every position that they computed counted as KV."""
        cluster = self._ours()
        self.close()
        with Cluster(self._moepool, self._file, router_flags=["--prefix-cache", "off"]) as cluster:
            cluster.bench("--prefill", 2048, "--streams", 16, "--stream-prompt", 16, "--stream-tokens", 32)
            shares = [anonymous_bytes(pid) for pid in cluster.pids()]
        shape = SHAPES[session.model]
        # The largest number of positions at one time; blocks of sequences that have ended are used again.
        kv = shape.kv_bytes(max(2048 + 1, 16 * (16 + 32)))
        held = sum(share for share, _ in shares)
        weights = self._file.stat().st_size
        return {"held_bytes": held, "pss_bytes": sum(pss for _, pss in shares), "weight_bytes": weights, "kv_bytes": kv,
                "memory_ratio": held / (weights + kv)}, None

    def _startup(self, *_):
        self.close()
        read_s = read_seconds(self._file)
        shutil.rmtree(self._moepool.cache_folder, ignore_errors=True)
        seconds = []
        for _ in range(2):
            with Cluster(self._moepool, self._file) as cluster:
                seconds.append(cluster.start_s)
        return {"read_s": read_s, "first_start_s": seconds[0], "second_start_s": seconds[1],
                "first_start_ratio": seconds[0] / read_s, "second_start_ratio": seconds[1] / read_s}, None
