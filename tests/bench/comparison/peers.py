"""How the peers are run and what they print: llama.cpp, and its fork ik_llama.cpp, from a folder of their binaries."""

import json
import pathlib

from comparison.children import MeasurementError, free_port, http_ok, port_answers, wait_until

LOAD_S = 300
BENCH_S = 900


def parse_llama_bench(output, lengths, decode_tokens):
    """{"prefill_512": tokens/s, ..., "decode_1": tokens/s} from `llama-bench -o json`: of each, the last repetition."""
    try:
        rows = json.loads(output[output.index("["):])
        speeds = {(r["n_prompt"], r["n_gen"]): r["samples_ts"][-1] for r in rows}
        found = {f"prefill_{n}": speeds[n, 0] for n in lengths}
        if decode_tokens:
            found["decode_1"] = speeds[0, decode_tokens]
        return found
    except (ValueError, LookupError, TypeError) as error:
        raise MeasurementError(f"llama-bench printed no such row: {error!r}") from None


def parse_batched_bench(output, streams):
    """{"streams_8": tokens/s in total, ...} from the table of llama-batched-bench: of each, the last row."""
    found = {}
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 10 and cells[2].isdigit():  # PP, TG, B, N_KV, T_PP, S_PP, T_TG, S_TG, T, S
            found[f"streams_{cells[2]}"] = float(cells[7])
    missing = [n for n in streams if f"streams_{n}" not in found]
    if missing:
        raise MeasurementError(f"llama-batched-bench printed no row of {missing} streams")
    return {f"streams_{n}": found[f"streams_{n}"] for n in streams}


class Peer:
    """One peer's folder of binaries. `fork`: ik_llama.cpp, which repacks at run time where it is told to."""

    def __init__(self, folder, threads, children, fork):
        self.name = "ik_llama.cpp" if fork else "llama.cpp"
        self._folder = pathlib.Path(folder)
        self._threads = threads
        self._children = children
        self._fork = fork

    def needs(self, *programs):
        """MeasurementError names the first binary that is not there."""
        for program in programs:
            if not (self._folder / program).is_file():
                raise MeasurementError(f"{self.name}: no {self._folder / program}")

    def _run(self, program, *args):
        self.needs(program)
        # The folder's own libraries, wherever the build has been moved to.
        return self._children.run([self._folder / program, *args], BENCH_S, env={"LD_LIBRARY_PATH": str(self._folder)})

    def bench(self, model, lengths=(), decode_tokens=0, extra=()):
        """Prefill of each length and decode of one stream, the second of two whole runs each, as ours. In place of the
        bench's own warm-up, which is as long for the one peer's prompts, and a single token for the other's."""
        flags = ["-rtr", 1, "-fa", 1, "-w", 0] if self._fork else ["--no-warmup"]
        prompts = ",".join(map(str, lengths)) or 0
        output = self._run("llama-bench", "-m", model, "-t", self._threads, "-p", prompts, "-n", decode_tokens,
                           "-r", 2, "-o", "json", *flags, *extra)
        return parse_llama_bench(output, lengths, decode_tokens)

    def streams(self, model, streams, prompt, tokens, extra=()):
        """Decode of several streams, tokens/s in total, the second of two runs each."""
        twice = ",".join(f"{n},{n}" for n in streams)
        output = self._run("llama-batched-bench", "-m", model, "-t", self._threads, "-npp", prompt, "-ntg", tokens,
                           "-npl", twice, "-c", max(streams) * (prompt + tokens), "-b", 2048, "-ub", 512, *extra)
        return parse_batched_bench(output, streams)

    def serve(self, model, clients, tokens):
        return Server(self, model, clients, tokens)

    def rpc_workers(self, count):
        return RpcWorkers(self, count)

    def start(self, program, *args):
        self.needs(program)
        return self._children.start([self._folder / program, *args], env={"LD_LIBRARY_PATH": str(self._folder)})

    def server_flags(self):
        flags = ["-t", self._threads, "-tb", self._threads]
        return flags + (["-rtr", "-fa", "on"] if self._fork else ["--no-webui"])

    def stop(self, child):
        self._children.stop(child)


class Server:
    """A running llama-server with a slot for each client."""

    def __init__(self, peer, model, slots, tokens_a_slot):
        self.port = free_port()
        self._peer = peer
        self._child = peer.start("llama-server", "-m", model, "--host", "127.0.0.1", "--port", self.port, "-np", slots,
                                 "-c", slots * (tokens_a_slot + 32), *peer.server_flags())
        try:
            wait_until(lambda: http_ok(self.port, "/health"), f"{peer.name}'s server on its port", LOAD_S,
                       [self._child], every_s=0.05)
        except MeasurementError:
            self.stop()
            raise

    def stop(self):
        self._peer.stop(self._child)


class RpcWorkers:
    """llama.cpp's RPC servers of one thread each, as context manager; gives the flags that use them."""

    def __init__(self, peer, count):
        self._peer = peer
        self._count = count
        self._workers = []

    def __enter__(self):
        ports = []
        for _ in range(self._count):
            port = free_port()
            worker = self._peer.start("ggml-rpc-server", "-H", "127.0.0.1", "-p", port, "-t", 1)
            self._workers.append(worker)
            ports.append(port)
            wait_until(lambda: port_answers(port), "ggml-rpc-server", LOAD_S, [worker])
        return ["--rpc", ",".join(f"127.0.0.1:{port}" for port in ports), "-ngl", 99]

    def __exit__(self, *_):
        for worker in self._workers:
            self._peer.stop(worker)
