"""Results as JSON lines, one a measured pair; a pair that is there is not measured again."""

import json
import pathlib

KEY = ("row", "model", "type", "against", "rep")


class Store:
    """Append-only. A record holds KEY, `ours` and `theirs` (metric to number), or `error` instead of both."""

    def __init__(self, path):
        self._path = pathlib.Path(path)
        self.records = []
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        whole = data[:data.rfind(b"\n") + 1]
        if whole != data:  # an interrupt cut the last line off
            with open(self._path, "r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.decode().splitlines(), 1):
            try:
                record = json.loads(line)
                missing = [name for name in KEY if name not in record]
            except (ValueError, TypeError):
                missing = KEY
            if missing:
                raise ValueError(f"{self._path}, line {number} is no record with {', '.join(missing)}: {line[:80]}")
            self.records.append(record)

    def add(self, record):
        self.records.append(record)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "ab") as out:
            out.write(json.dumps(record).encode() + b"\n")

    def measured(self, **key):
        """Records without error that agree with every given field, in order of repetition."""
        return sorted((r for r in self.matching(**key) if "error" not in r), key=lambda r: r["rep"])

    def last_error(self, **key):
        """Why the newest matching record has no figures; None where it has, or there is none."""
        found = self.matching(**key)
        return found[-1].get("error") if found else None

    def matching(self, **key):
        return [r for r in self.records if all(r.get(name) == value for name, value in key.items())]
