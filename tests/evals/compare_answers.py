#!/usr/bin/env python3
"""Two files of answers to the same questions (--answers of the other programs) side by side: scores, and how many of
the answers are equal to the letter.

    tests/evals/compare_answers.py ours.jsonl theirs.jsonl
"""

import argparse
import json


def read(path):
    with open(path, encoding="utf-8") as file:
        return {str(row["id"]): row for row in map(json.loads, file)}


def compare(one, other):
    if set(one) != set(other):
        raise SystemExit(f"not the same questions: {sorted(set(one) ^ set(other))[:5]} are in one file alone")
    return {"asked": len(one), "right": [sum(r["right"] for r in rows.values()) for rows in (one, other)],
            "equal_answers": sum(one[i]["answer"].strip() == other[i]["answer"].strip() for i in one),
            "graded_alike": sum(one[i]["right"] == other[i]["right"] for i in one)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs=2)
    print(json.dumps(compare(*map(read, parser.parse_args().files))))
