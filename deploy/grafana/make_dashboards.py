#!/usr/bin/env python3
"""Writes dashboards/*.json. They are committed, and a test says that they are what this writes.

deploy/grafana/make_dashboards.py          writes them
deploy/grafana/make_dashboards.py --check  says which differ, and fails where one does
"""

import json
import pathlib
import sys

import experts
import pool
import service

FOLDER = pathlib.Path(__file__).resolve().parent / "dashboards"


def main():
    differ = []
    for name, module in (("service", service), ("pool", pool), ("experts", experts)):
        text = json.dumps(module.make(), indent=1, ensure_ascii=False) + "\n"
        path = FOLDER / f"{name}.json"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            differ.append(path.name)
            if "--check" not in sys.argv[1:]:
                path.write_text(text, encoding="utf-8")
    if differ and "--check" in sys.argv[1:]:
        sys.exit(f"not what make_dashboards.py writes: {', '.join(differ)}")


if __name__ == "__main__":
    main()
