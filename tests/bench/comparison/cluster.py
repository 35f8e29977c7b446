"""moepool as it is compared: gateway, router and two workers as processes on one host, and the benches of its tool."""

import json
import mmap
import os
import pathlib
import select
import time

from comparison.children import MeasurementError, http_ok, wait_until

START_S = 300
IDLE_S = 120
BENCH_S = 900
WORKERS = 2
KV_MEMORY = "512MiB"


def parse_engine(output):
    """{"prefill_512": tokens/s, "decode_1": ..., "streams_8": ..., "batching_ratio": ..., "exchange_own_p50_us": ...}."""
    try:
        found = {}
        parsed = json.loads(output)
        for phase in parsed["results"]:
            name = phase["phase"]
            if name == "batching":
                found["batching_ratio"] = phase["ratio"]["median"]
                for kind in ("continuous", "static"):
                    found[f"{kind}_tokens_per_s"] = phase[f"{kind}_tokens_per_s"]["median"]
                    found[f"{kind}_utilisation"] = phase[f"{kind}_utilisation"]["median"]
                continue
            key = {"prefill": f"prefill_{phase['prompt_tokens']}", "decode": "decode_1",
                   "streams": f"streams_{phase.get('streams')}"}[name]
            found[key] = phase["tokens_per_s"]["median"]
            exchange = phase["exchange"]
            if name != "decode":
                continue
            # Ids that were held up on their way come together, and the time between them says nothing.
            layers = parsed["reps"] * (phase["tokens"] - 1) * parsed["layers"]
            if exchange["layers"] < 0.9 * layers:
                raise MeasurementError(f"{exchange['layers']} layers were computed between the first id and the last, "
                                       f"not {layers}: the ids came in bursts")
            if exchange["own_p50_us"] is not None:
                found["exchange_own_p50_us"] = exchange["own_p50_us"]
                found["exchange_own_p99_us"] = exchange["own_p99_us"]
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError(f"moepool bench engine printed something else: {error!r}") from None


def parse_serve(output, cores):
    """{"output_tokens_per_s": ..., "ttft_p50_ms": ..., "itl_p99_ms": ...} from `moepool bench serve --json`, and what the
    client took of the cores that it shares with the server."""
    try:
        report = json.loads(output)
        if report["failed"] or not report["completed"]:
            raise MeasurementError(f"{report['failed']} of {report['requests']} requests failed: {report['errors']}")
        return {"output_tokens_per_s": report["output_tokens_per_s"], "ttft_p50_ms": report["ttft_ms"]["p50"],
                "ttft_p99_ms": report["ttft_ms"]["p99"], "tpot_p50_ms": report["tpot_ms"]["p50"],
                "itl_p99_ms": report["itl_ms"]["p99"],
                "client_cpu_share": report["client_cpu_s"] / (report["duration_s"] * cores)}
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError(f"moepool bench serve printed something else: {error!r}") from None


def parse_together(output):
    """Tokens/s in total while all of the streams decode, from `moepool bench serve --json`."""
    try:
        report = json.loads(output)
        rate = report["together_tokens_per_s"]
        if rate is None:
            raise MeasurementError(f"{report['requests']} streams never decoded together, of which {report['failed']} "
                                   f"failed: {report['errors']}")
        return float(rate)
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError(f"moepool bench serve printed something else: {error!r}") from None


def parse_limits(output):
    """{"read_gb_per_s": ..., "int8_gops": ...} of all threads together, from `moepool bench kernels --json`."""
    try:
        limits = max(json.loads(output)["runs"], key=lambda run: run["threads"])["limits"]
        return {"read_gb_per_s": limits["read_gb_s"], "int8_gops": limits["int8_gops"]}
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError(f"moepool bench kernels printed no limits: {error!r}") from None


class Moepool:
    """The folder of our binaries, and the cache folder that its processes share."""

    def __init__(self, folder, threads, children, cache_folder):
        self._folder = pathlib.Path(folder)
        self._children = children
        self.threads = threads
        self.cache_folder = pathlib.Path(cache_folder)
        self._benches = 0

    def needs(self):
        for program in ("moepool", "moepool-router", "moepool-expert-worker", "moepool-gateway"):
            if not (self._folder / program).is_file():
                raise MeasurementError(f"moepool: no {self._folder / program}")

    def tool(self, *args, timeout_s=BENCH_S):
        return self._children.run([self._folder / "moepool", *args], timeout_s, env=self._env())

    def _bench(self, kind, *args):
        """Each with prompts of its own, so that no prefix of an earlier one is in the cache."""
        self._benches += 1
        return self.tool("bench", kind, *args, "--seed", self._benches, "--json")

    def start(self, program, *args, read):
        return self._children.start([self._folder / program, *args], env=self._env(), read=read)

    def stop(self, child):
        self._children.stop(child)

    def _env(self):
        return {"XDG_CACHE_HOME": str(self.cache_folder)}

    def limits(self):
        """Measured before any kernel, of which there is no way to ask for none."""
        return parse_limits(self.tool("bench", "kernels", "--threads", self.threads, "--types", "Q4_0", "--rows", 1,
                                      "--contexts", 64, "--seconds", 1, "--json"))

    def bench_engine(self, *args):
        # Mixed lengths run for a minute, beside which a first run hardly differs.
        warmup = 0 if "--batching" in args else 1
        return parse_engine(self._bench("engine", *args, "--reps", 1, "--warmup", warmup))

    def bench_serve(self, port, protocol, clients, requests, tokens_in, tokens_out):
        return parse_serve(self._serve(port, protocol, clients, requests, 1, tokens_in, tokens_out), self.threads)

    def bench_served_streams(self, port, protocol, streams, tokens_in, tokens_out):
        """{"streams_8": tokens/s in total, ...} of a server, ours or a peer's; the second of two runs each."""
        return {f"streams_{n}": parse_together(self._serve(port, protocol, n, n, n, tokens_in, tokens_out))
                for n in streams}

    def _serve(self, port, protocol, clients, requests, warmup, tokens_in, tokens_out):
        return self._bench("serve", "--target", f"127.0.0.1:{port}", "--protocol", protocol, "--clients", clients,
                           "--requests", requests, "--warmup-requests", warmup, "--input-tokens", tokens_in,
                           "--output-tokens", tokens_out)


class Cluster:
    """Context manager: processes that are ready to serve. start_s: from the first start to that moment."""

    def __init__(self, moepool, model, transport="shm", router_flags=()):
        self._moepool = moepool
        self._children = []
        began = time.monotonic()
        try:
            threads = ["--threads", moepool.threads]
            router = self._start("moepool-router", "--model", model, "--address", "127.0.0.1:0",
                                 "--metrics-address", "127.0.0.1:0", "--kv-memory", KV_MEMORY,
                                 "--min-workers", WORKERS, *threads, *router_flags, ready_line=True)
            self.router = self._ready(router)["address"]
            for _ in range(WORKERS):
                self._start("moepool-expert-worker", "--router", self.router, "--model", model, "--transport", transport,
                            *threads)
            gateway = self._start("moepool-gateway", "--router", self.router, "--http-address", "127.0.0.1:0",
                                  "--grpc-address", "127.0.0.1:0", ready_line=True)
            self.http_port = int(self._ready(gateway)["http_address"].rpartition(":")[2])
            wait_until(lambda: http_ok(self.http_port, "/ready"), "experts on the workers", START_S, self._children)
        except BaseException:
            self.__exit__()
            raise
        self.start_s = time.monotonic() - began
        self._wait_until_idle()

    def _wait_until_idle(self):
        """After a first start workers go on to write their packed weights, beside which nothing is to be measured."""
        seconds = 0.5
        until = time.monotonic() + IDLE_S
        before = sum(cpu_seconds(pid) for pid in self.pids())
        while time.monotonic() < until:
            time.sleep(seconds)
            now = sum(cpu_seconds(pid) for pid in self.pids())
            if now - before < 0.05 * seconds:
                return
            before = now

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in reversed(self._children):
            self._moepool.stop(child)
        self._children.clear()

    def pids(self):
        return [child.pid for child in self._children]

    def bench(self, *args):
        """As Moepool.bench_engine, of these processes."""
        return self._moepool.bench_engine("--router", self.router, *args)

    def _start(self, program, *args, ready_line=False):
        child = self._moepool.start(program, *args, read=ready_line)
        self._children.append(child)
        return child

    @staticmethod
    def _ready(child):
        """The line of JSON that a process prints when it serves."""
        readable, _, _ = select.select([child.stdout], [], [], START_S)
        line = child.stdout.readline() if readable else b""
        try:
            return json.loads(line)
        except ValueError:
            raise MeasurementError(f"no ready line, but {line[:80]!r} ({child.log_path})") from None


def cpu_seconds(pid):
    """Of all threads of a process, in user and in system mode, so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def anonymous_bytes(pid):
    """A process's share of memory (PSS) without clean pages of files, and the whole of it."""
    found = {}
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, amount = line.split(":")
        found[name] = int(amount.split()[0]) * 1024
    # Huge pages of hugetlbfs are not in PSS.
    huge = found.get("Private_Hugetlb", 0) + found.get("Shared_Hugetlb", 0)
    return found["Pss_Anon"] + found["Pss_Shmem"] + huge, found["Pss"] + huge


def read_seconds(path):
    """Time to read a file into fresh memory, in one thread; the second of two reads, so that the page cache is warm."""
    size = pathlib.Path(path).stat().st_size
    for _ in range(2):
        began = time.monotonic()
        with open(path, "rb", buffering=0) as file, mmap.mmap(-1, size) as memory, memoryview(memory) as view:
            done = 0
            while done < size:
                with view[done:done + (64 << 20)] as part:
                    done += file.readinto(part)
        seconds = time.monotonic() - began
    return seconds
