"""A server with OpenAI's endpoints, and what all evaluations do with one: ask everything, keep every answer."""

import concurrent.futures
import http.client
import json
import os
import sys
import threading
import urllib.parse


class Endpoint:
    """One server: `url` as http://host:port/v1. The key is OPENAI_API_KEY where the server wants one."""

    def __init__(self, url, model=None, timeout_s=600):
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self.model = model or self._request("GET", "/models")["data"][0]["id"]

    def _request(self, method, path, body=None):
        parts = urllib.parse.urlsplit(self.url + path)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        headers = {"Content-Type": "application/json"}
        if os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {os.environ['OPENAI_API_KEY']}"
        connection = kind(parts.netloc, timeout=self.timeout_s)
        try:
            connection.request(method, parts.path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            said = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"{method} {parts.path}: {response.status} {said[:500].decode(errors='replace')}")
        return json.loads(said)

    def chat(self, messages, **fields):
        made = self._request("POST", "/chat/completions", {"model": self.model, "messages": messages, **fields})
        return made["choices"][0]["message"]["content"] or ""

    def complete(self, prompt, **fields):
        made = self._request("POST", "/completions", {"model": self.model, "prompt": prompt, **fields})
        return made["choices"][0]["text"]


def add_flags(parser):
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="of any server with OpenAI's endpoints")
    parser.add_argument("--model", help="without it the first that the server lists")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time")
    parser.add_argument("--limit", type=int, help="only the first so many")
    parser.add_argument("--answers", help="where to keep every answer, one JSON object a line")


def ask_all(items, ask, concurrency):
    """[ask(item) for item in items], several at a time, with a line of progress on standard error."""
    done = 0
    lock = threading.Lock()

    def one(item):
        nonlocal done
        made = ask(item)
        with lock:
            done += 1
            print(f"\r{done}/{len(items)}", end="", file=sys.stderr, flush=True)
        return made
    with concurrent.futures.ThreadPoolExecutor(concurrency) as threads:
        made = list(threads.map(one, items))
    print(file=sys.stderr)
    return made


def keep(path, rows):
    if path is None:
        return
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
