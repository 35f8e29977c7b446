"""Streams through a llama-server, measured as `moepool bench engine` measures its own."""

import http.client
import json
import random
import threading
import time

from comparison.children import MeasurementError

REQUEST_S = 600


def http_ok(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def window_rate(arrivals):
    """Tokens/s in total while all streams decode. arrivals: for each stream, the times of its tokens in order.

    Counted are tokens after the last stream's first and up to the first stream's end.
    """
    begin = max(times[0] for times in arrivals)
    end = min(times[-1] for times in arrivals)
    counted = sum(1 for times in arrivals for t in times if begin < t <= end)
    if counted == 0:
        raise MeasurementError("the streams never decoded together")
    return counted / (end - begin)


def measure_streams(port, streams, prompt_tokens, tokens, seed, vocab=32000):
    """Total decode rate of distinct prompts of random ids. 1000 and up, so that no control token is among them."""
    generator = random.Random(seed)
    prompts = [[generator.randrange(1000, vocab) for _ in range(prompt_tokens)] for _ in range(streams)]
    arrivals = [[] for _ in prompts]
    failures = []

    def stream(prompt, times):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_S)
        try:
            body = {"prompt": prompt, "n_predict": tokens, "ignore_eos": True, "stream": True, "cache_prompt": False,
                    "temperature": 0}
            connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise MeasurementError(f"/completion answered {response.status}: {response.read(200)!r}")
            for line in response:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    if not event.get("stop"):
                        times.append(time.perf_counter())
        except (OSError, ValueError, http.client.HTTPException, MeasurementError) as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=stream, args=pair, daemon=True) for pair in zip(prompts, arrivals)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures or not all(arrivals):
        raise MeasurementError(f"{len(failures)} of {streams} streams failed: {failures[:1]}")
    return window_rate(arrivals)
