#!/usr/bin/env python3
"""Asks a server the questions of a file, greedily, and grades the answers. docs/evaluation.md has the formats.

    tests/evals/questions.py --url http://127.0.0.1:8000/v1                            arithmetic, 200 word problems
    tests/evals/questions.py --kind math --file math_test.jsonl                        MATH, from a file of yours
    tests/evals/questions.py --kind choice --file science_qa_test.jsonl                ScienceQA, from a file of yours

Prints one JSON object: how many were asked, how many answers are right, and the share.
"""

import argparse
import json
import pathlib
import string
import sys

import endpoint
import graders

ARITHMETIC = pathlib.Path(__file__).with_name("arithmetic.jsonl")


def need(row, *names):
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(f"no {' or '.join(repr(n) for n in names)} in {json.dumps(row)[:200]}")


class Arithmetic:
    """GSM8K's form: question, and an answer that ends in '#### number'."""
    max_tokens = 320

    def prompt(self, row):
        return (f"{need(row, 'question')}\n\nThink step by step. Write the result as a number on the last line, after "
                "'#### '.")

    def right(self, row, answer):
        return graders.same_number(answer, need(row, "answer"))


class Math:
    """MATH's form: problem, and a solution with its result in \\boxed{}."""
    max_tokens = 1024

    def prompt(self, row):
        return f"{need(row, 'problem')}\n\nThink step by step and put the final result in \\boxed{{}}."

    def right(self, row, answer):
        return graders.same_latex(answer, need(row, "answer", "solution"))


class Choice:
    """ScienceQA's form: question, choices, and the number of the right one; hint where there is one. Questions about a
    picture are left out: there is nobody to look at it."""
    max_tokens = 256

    def prompt(self, row):
        choices = "\n".join(f"{letter}. {text}" for letter, text in zip(string.ascii_uppercase, need(row, "choices")))
        hint = row.get("hint") or ""
        return (f"{hint}\n\n{need(row, 'question')}\n{choices}\n\nEnd with 'The answer is' and the letter of the right "
                "choice.").strip()

    def right(self, row, answer):
        letters = string.ascii_uppercase[:len(need(row, "choices"))]
        return graders.choice(answer, letters) == letters[need(row, "answer")]


KINDS = {"arithmetic": Arithmetic, "math": Math, "choice": Choice}


def read_rows(path, kind):
    """JSON Lines, or one JSON document: a list, or ScienceQA's object from id to question."""
    text = pathlib.Path(path).read_text(encoding="utf-8")
    try:
        whole = json.loads(text)
    except ValueError:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    else:
        if isinstance(whole, dict) and all(isinstance(row, dict) for row in whole.values()):
            whole = [{"id": key, **row} for key, row in whole.items()]
        rows = whole if isinstance(whole, list) else [whole]
    if kind == "choice":
        rows = [row for row in rows if not row.get("image")]
    if not rows:
        raise ValueError(f"no questions in {path}")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    endpoint.add_flags(parser)
    parser.add_argument("--kind", choices=sorted(KINDS), default="arithmetic")
    parser.add_argument("--file", help="of questions; arithmetic has its own")
    parser.add_argument("--max-tokens", type=int, help="of an answer")
    flags = parser.parse_args()
    if flags.file is None and flags.kind != "arithmetic":
        parser.error(f"--kind {flags.kind} needs --file")
    kind = KINDS[flags.kind]()
    rows = read_rows(flags.file or ARITHMETIC, flags.kind)[:flags.limit]
    server = endpoint.Endpoint(flags.url, flags.model)
    answers = endpoint.ask_all(rows, lambda row: server.chat(
        [{"role": "user", "content": kind.prompt(row)}], temperature=0, max_tokens=flags.max_tokens or kind.max_tokens),
        flags.concurrency)
    graded = [{"id": row.get("id", i), "answer": answer, "right": kind.right(row, answer)}
              for i, (row, answer) in enumerate(zip(rows, answers))]
    endpoint.keep(flags.answers, graded)
    right = sum(row["right"] for row in graded)
    print(json.dumps({"kind": flags.kind, "model": server.model, "asked": len(rows), "right": right,
                      "score": right / len(rows)}))


if __name__ == "__main__":
    try:
        main()
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"questions.py: {error}")
