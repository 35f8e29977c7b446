"""A user of a gateway: HTTP, server-sent events, and `moepool generate` for gRPC."""

import http.client
import json

from processes import PATIENCE_S, tool, wait_for


class Stream:
    """An answer in server-sent events, read as it comes."""

    def __init__(self, connection, response):
        self._connection = connection
        self._response = response
        self.pieces = []
        self.choices = {}  # of several answers: index to pieces
        self.ends = {}  # of several answers: index to the event with its finish_reason
        self.logprobs = []
        self.last = None  # with usage, and with finish_reason where there is one answer
        self.error = None
        self.done = False  # [DONE] has been seen
        self.keepalives = 0

    @property
    def text(self):
        return "".join(self.pieces)

    def read(self, pieces=None):
        """Reads on until so many pieces of text have come, or to the end."""
        while pieces is None or len(self.pieces) < pieces:
            line = self._response.readline()
            if not line:
                self._connection.close()
                return self
            line = line.rstrip(b"\r\n")
            if line.startswith(b":"):
                self.keepalives += 1
            elif line == b"data: [DONE]":
                self.done = True
            elif line:
                self._event(line)
        return self

    def _event(self, line):
        if not line.startswith(b"data: "):
            raise AssertionError(f"not a server-sent event: {line!r}")
        event = json.loads(line[len(b"data: "):])
        self.logprobs += event.get("logprobs", [])
        if "error" in event:
            self.error = event["error"]
        elif "usage" in event:
            self.last = event
        elif "finish_reason" in event:
            self.ends[event["index"]] = event
        elif "index" in event:
            self.choices.setdefault(event["index"], []).append(event["text"])
        else:
            self.pieces.append(event["text"])

    def hang_up(self):
        self._response.close()
        self._connection.close()


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.body[:500]!r}"


class Client:
    """What a user has of a gateway: its HTTP address, and its gRPC address for `moepool generate`."""

    def __init__(self, http_address, grpc_address, netns=None):
        self.http_address = http_address
        self.grpc_address = grpc_address
        self.netns = netns

    def request(self, method, path, body=None, headers=None, timeout_s=PATIENCE_S):
        connection = http.client.HTTPConnection(self.http_address, timeout=timeout_s)
        try:
            connection.request(method, path, body, headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, body, content_type="application/json", timeout_s=PATIENCE_S):
        if not isinstance(body, (bytes, str)):
            body = json.dumps(body, ensure_ascii=False)
        if isinstance(body, str):
            body = body.encode()
        return self.request("POST", path, body, {"Content-Type": content_type}, timeout_s)

    def infer(self, prompt, **fields):
        """The answer as a dictionary; anything but 200 fails."""
        answer = self.post("/infer", {"prompt": prompt, **fields})
        if answer.status != 200:
            raise AssertionError(f"/infer {fields}: {answer}")
        return answer.json()

    def infer_messages(self, messages, **fields):
        """As infer(), of a conversation."""
        answer = self.post("/infer", {"messages": messages, **fields})
        if answer.status != 200:
            raise AssertionError(f"/infer {fields}: {answer}")
        return answer.json()

    def stream(self, prompt, **fields):
        connection = http.client.HTTPConnection(self.http_address, timeout=PATIENCE_S)
        body = json.dumps({"prompt": prompt, "stream": True, **fields}, ensure_ascii=False).encode()
        connection.request("POST", "/infer", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise AssertionError(f"/infer as a stream: {Answer(response)}")
        return Stream(connection, response)

    def generate(self, prompt, *flags):
        """Standard output of `moepool generate` as text, without the newline that ends it."""
        made = self.try_generate(prompt, *flags)
        if made.returncode != 0:
            raise AssertionError(f"moepool generate: {made.returncode}: {made.stderr.decode()}")
        return made.stdout.decode()

    def try_generate(self, prompt, *flags):
        return tool("generate", "--gateway", self.grpc_address, *flags, "--", prompt, netns=self.netns)

    def ready(self):
        try:
            return self.get("/ready").status == 200
        except OSError:
            return False

    def wait_ready(self):
        wait_for(self.ready, f"/ready of {self.http_address}")
