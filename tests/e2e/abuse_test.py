"""Clients that mean no good, or know no better: served or refused, in bounded memory, and gone without a trace.

Prints the gateway's resident memory at each step; the figure of the README is this test's.
"""

import concurrent.futures
import gzip
import json
import os
import re
import resource
import selectors
import socket
import threading
import unittest

import cluster
from cluster import E2eTest, PATIENCE_S, wait_for

IDLE = 1000
STREAMS = 256
MAX_BODY = 8 << 20  # the gateway's default
# Above what it has when it starts. 1,000 connections hold a session and a read buffer each; 256 streams a tokenizer's
# state and their text; one body of 8 MiB is held as it came and as it was parsed.
MEMORY_BOUND_MIB = 192
TIMES = ("--header-timeout", "1", "--body-timeout", "2", "--write-timeout", "2")
# So that what is answered ends with the connection.
HEAD = (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\n")


def raise_open_files():
    """A socket here and one in the gateway, which inherits the limit, for each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def chat(**fields):
    return json.dumps({"model": "tiny-mixtral", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 4,
                       "temperature": 0, **fields}).encode()


def framed(body, *headers):
    return HEAD + b"".join(h + b"\r\n" for h in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body


class AbuseTest(E2eTest):
    @classmethod
    def setUpClass(cls):
        raise_open_files()
        cls.pool = cluster.Cluster(cluster.tiny_mixtral(), router_flags=("--max-running", STREAMS),
                                   gateway_flags=("--max-connections", 2 * IDLE, *TIMES))
        cls.addClassCleanup(lambda: cluster.kill_all(cls.pool.processes))
        cls.addClassCleanup(cls.pool.stop)
        cls.address = cls.pool.client.http_address.split(":")
        cls.good = cls.ask()
        # What it has before anyone is unkind: threads and arenas that the first requests bring included.
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: cls.ask(), range(64)))
        counts = []  # the last clients' sockets are still being closed
        wait_for(lambda: counts.append(cls.sockets()) or (len(counts) >= 30 and len(set(counts[-30:])) == 1),
                 "the gateway's sockets to stay as many")
        cls.idle_sockets = counts[-1]
        cls.memory_mib = cls.resident_mib()
        print(f"gateway's resident memory: {cls.memory_mib:.1f} MiB at the start")

    @classmethod
    def ask(cls):
        answer = cls.pool.client.post("/v1/chat/completions", chat())
        if answer.status != 200:
            raise AssertionError(answer)
        return answer.json()["choices"][0]["message"]["content"]

    @classmethod
    def status_of(cls, field):
        with open(f"/proc/{cls.pool.gateway.pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(field + ":"))

    @classmethod
    def resident_mib(cls):
        return cls.status_of("VmRSS") / 1024

    @classmethod
    def sockets(cls):
        """That the gateway has open. What else it opens, it opens once, for threads and timers."""
        count = 0
        for entry in os.scandir(f"/proc/{cls.pool.gateway.pid}/fd"):
            try:
                count += os.readlink(entry.path).startswith("socket:")
            except FileNotFoundError:
                pass  # closed meanwhile
        return count

    def connect(self):
        connection = socket.create_connection(self.address, timeout=PATIENCE_S)
        self.addCleanup(connection.close)
        return connection

    def forget_peak(self):
        with open(f"/proc/{self.pool.gateway.pid}/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # of proc(5): VmHWM begins anew

    def check_memory(self, what, peak=False):
        now = self.status_of("VmHWM") / 1024 if peak else self.resident_mib()
        print(f"gateway's resident memory: {now:.1f} MiB {what}, {now - self.memory_mib:+.1f}")
        self.assertLess(now - self.memory_mib, MEMORY_BOUND_MIB, what)

    def check_recovers(self):
        self.assertEqual(self.ask(), self.good)
        self.assertTrue(all(p.alive() for p in self.pool.processes))
        wait_for(lambda: self.sockets() <= self.idle_sockets, f"the {self.idle_sockets} sockets of an idle gateway")
        self.pool.wait_idle()

    def read_all(self, connection):
        said = b""
        while True:
            try:
                piece = connection.recv(65536)
            except ConnectionResetError:
                return said
            if not piece:
                return said
            said += piece

    def exchange(self, sent, leave=False):
        """What comes back until the gateway closes. leave: this end has no more to send, and says so."""
        with socket.create_connection(self.address, timeout=PATIENCE_S) as connection:
            try:
                connection.sendall(sent)
                if leave:
                    connection.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass
            return self.read_all(connection)

    def test_a_thousand_idle_connections(self):
        connections = [self.connect() for _ in range(IDLE)]
        wait_for(lambda: self.sockets() >= self.idle_sockets + IDLE, f"{IDLE} connections to be accepted")
        self.assertEqual(self.ask(), self.good)
        self.check_memory(f"with {IDLE} idle connections")
        # And after a request on each, kept alive.
        for connection in connections:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for connection in connections:
            self.assertTrue(connection.recv(4096).startswith(b"HTTP/1.1 200"))
        self.assertEqual(self.ask(), self.good)
        self.check_memory(f"with {IDLE} connections that have asked once")
        for connection in connections:
            connection.close()
        self.check_recovers()

    def test_connections_beyond_the_limit(self):
        """They take the place of idle ones; where all are in use they are refused, and the others served."""
        gateway = self.start("moepool-gateway", "--router", self.pool.address, "--http-address", "127.0.0.1:0",
                             "--grpc-address", "127.0.0.1:0", "--max-connections", 8)
        client = cluster.Client(gateway.wait_ready()["http_address"], None)
        client.wait_ready()
        address = client.http_address.split(":")
        request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"

        def connect():
            connection = socket.create_connection(address, timeout=PATIENCE_S)
            self.addCleanup(connection.close)
            return connection
        idle = [connect() for _ in range(30)]
        used = []
        for _ in range(8):
            used.append(connect())
            used[-1].sendall(request)
            self.assertTrue(used[-1].recv(4096).startswith(b"HTTP/1.1 200"))
            used[-1].sendall(request[:-2])
        for connection in idle:
            self.assertEqual(self.read_all(connection), b"")
        ninth = connect()
        said = self.read_all(ninth)
        self.assertTrue(said.startswith(b"HTTP/1.1 503"), said)
        self.assertIn(b"\r\nX-Request-Id: req-", said)
        for connection in used:
            connection.sendall(b"\r\n")
            self.assertTrue(connection.recv(4096).startswith(b"HTTP/1.1 200"))
        self.assertTrue(client.ready())

    def test_many_streams_at_once(self):
        fields = {"max_tokens": 48, "temperature": 1}
        expected = {seed: self.pool.client.infer("the cat", seed=seed, **fields)["text"] for seed in range(8)}

        # None reads on before each has begun, so that all are open at once.
        begun = threading.Barrier(STREAMS)

        def stream(i):
            made = self.pool.client.stream("the cat", seed=i % 8, **fields).read(pieces=1)
            begun.wait(PATIENCE_S)
            made.read()
            return made.text if made.done else made.error
        self.forget_peak()
        with concurrent.futures.ThreadPoolExecutor(STREAMS) as threads:
            texts = list(threads.map(stream, range(STREAMS)))
        self.assertEqual([i for i, text in enumerate(texts) if text != expected[i % 8]], [])
        self.check_memory(f"at most with {STREAMS} streams at once", peak=True)
        self.check_recovers()

    def trickle(self, count, first, byte):
        """Sends `first` on each of so many connections and then a byte at a time, until all are closed by the gateway.
        Returns what each was told."""
        said = {self.connect(): b"" for _ in range(count)}
        with selectors.DefaultSelector() as selector:
            for connection in said:
                connection.sendall(first)
                selector.register(connection, selectors.EVENT_READ)
            served = False
            while selector.get_map():
                # With nothing to read for a moment it is time for another byte.
                ready = selector.select(0.05)
                for key, _ in ready:
                    try:
                        piece = key.fileobj.recv(4096)
                    except ConnectionResetError:
                        piece = b""
                    said[key.fileobj] += piece
                    if not piece:
                        selector.unregister(key.fileobj)
                if not ready:
                    for key in list(selector.get_map().values()):
                        try:
                            key.fileobj.send(byte)
                        except (BrokenPipeError, ConnectionResetError):
                            pass
                if not served:
                    self.assertEqual(self.ask(), self.good)
                    served = True
        return list(said.values())

    def test_slow_loris(self):
        for what, first, byte in (("headers", b"POST /infer HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"a"),
                                  ("bodies", HEAD + b"Content-Length: 100000\r\n\r\n{", b" ")):
            with self.subTest(what=what):
                for told in self.trickle(100, first, byte):
                    self.assertTrue(told.startswith(b"HTTP/1.1 408"), told)
                self.check_memory(f"after 100 slow {what}")
                self.check_recovers()

    def test_a_reader_that_does_not_read(self):
        asked = json.dumps({"prompt": "the cat", "max_tokens": 3000, "n": 16, "logprobs": True, "top_logprobs": 20,
                            "ignore_eos": True, "stream": True}).encode()
        for _ in range(2):
            connection = socket.socket()
            self.addCleanup(connection.close)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((self.address[0], int(self.address[1])))
            connection.sendall(b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                               b"Content-Length: %d\r\n\r\n" % len(asked) + asked)
        self.pool.wait_status(lambda s: s["running"] > 0, "its answers to run")
        # The gateway gives up on who takes nothing; the answers end with that.
        self.pool.wait_idle()
        self.check_memory("after streams that nobody read")
        self.check_recovers()

    def test_bodies_of_every_bad_kind(self):
        good = chat()
        deep = b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        bad = {
            "nothing": framed(b""),
            "no JSON": framed(b"model=tiny&prompt=x"),
            "half of JSON": framed(good[:-10]),
            "more than JSON": framed(good + b"}"),
            "another shape": framed(b"[1, 2, 3]"),
            "deep": framed(deep),
            "deep objects": framed(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
            "huge numbers": framed(chat(max_tokens=10**400)),
            "huge exponents": framed(good.replace(b'"max_tokens": 4', b'"temperature": 1e999999999')),
            "not a number": framed(good.replace(b'"max_tokens": 4', b'"temperature": NaN')),
            "invalid UTF-8": framed(good.replace(b"the cat", b"\xff\xc0\x80\xf5")),
            "surrogates": framed(good.replace(b"the cat", b"\xed\xa0\x80")),
            "half a surrogate": framed(good.replace(b"the cat", b"\\ud800")),
            "zero bytes": framed(b"\x00" * 1000),
            "a key twice": framed(good.replace(b'"max_tokens": 4', b'"max_tokens": 4, "max_tokens": 5')),
            "many keys": framed(json.dumps({f"k{i}": i for i in range(200_000)}).encode()),
            "compressed": framed(gzip.compress(good), b"Content-Encoding: gzip"),
            "a bomb": framed(gzip.compress(bytes(64 << 20)), b"Content-Encoding: gzip"),
            "another type": framed(good).replace(b"application/json", b"application/xml"),
            "too much": framed(b" " * (MAX_BODY + 1)),
            "far too much": HEAD + b"Content-Length: 18446744073709551615\r\n\r\n",
            "a negative length": HEAD + b"Content-Length: -1\r\n\r\n",
            "a length that is none": HEAD + b"Content-Length: four\r\n\r\nabcd",
            "two lengths": HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
            "a length and chunks": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "less than promised": HEAD + b"Content-Length: 1000\r\n\r\n{",
            "chunks of rubbish": HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n{}\r\n0\r\n\r\n",
            "a huge chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}\r\n",
            "a coding nobody knows": HEAD + b"Transfer-Encoding: rot13, chunked\r\n\r\n0\r\n\r\n",
            "two hosts": framed(good, b"Host: b"),
            "a large header": framed(good, b"X-Large: " + b"a" * (1 << 20)),
            "many headers": framed(good, *(b"X-%d: 1" % i for i in range(20_000))),
            "a header without a name": framed(good, b": 1"),
            "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(64),
            "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
            "HTTP/9": b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n",
            "a long line": b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "a method nobody knows": b"BREW /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "noise": bytes(range(256)) * 40,
        }
        for name, sent in bad.items():
            with self.subTest(name):
                said = self.exchange(sent)
                self.assertTrue(said.startswith(b"HTTP/1.1 4"), said[:300])
                head, _, body = said.partition(b"\r\n\r\n")
                self.assertEqual(list(json.loads(body)), ["error"], said[:300])
                self.assertIn(b"application/json", head)
                # Who leaves is told nothing, or the same.
                self.assertIn(self.exchange(sent, leave=True)[:12], (b"", said[:12]))
        self.check_memory("after bodies of every bad kind")
        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            said = list(threads.map(self.exchange, [bad["deep"], bad["too much"], bad["many keys"], bad["a bomb"]] * 8))
        self.assertTrue(all(s.startswith(b"HTTP/1.1 4") for s in said))
        self.check_memory("after 32 large ones at once")
        self.check_recovers()

    def test_pipelining_answers_in_order_or_not_at_all(self):
        paths = (b"/health", b"/v1/models", b"/nothing", b"/health")
        with self.connect() as connection:
            connection.sendall(b"".join(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % p for p in paths[:-1]) +
                               b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            said = self.read_all(connection)
        self.assertEqual(re.findall(rb"HTTP/1\.1 (\d+)", said), [b"200", b"200", b"404", b"200"])
        # A flood of them is not buffered without end.
        with self.connect() as connection:
            connection.settimeout(2)
            flood = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10_000
            try:
                for _ in range(20):
                    connection.sendall(flood)
            except (TimeoutError, BrokenPipeError, ConnectionResetError):
                pass
            self.check_memory("with a flood of pipelined requests")
        self.check_recovers()


if __name__ == "__main__":
    cluster.main()
