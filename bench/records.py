"""Measurements, and the file to which each is written as soon as it is there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Figures = dict[str, float]
Key = tuple[str, str, str, int]

# What the reason says when a measurement was ended by the limit of time.
TOO_LONG = "took longer than"


@dataclass
class Record:
    """One measurement."""

    line: str
    task: str
    client: str
    run: int
    figures: Figures = field(default_factory=dict)
    # Why there are no figures.
    error: str = ""
    # All of it, with the preparation and the mount.
    took_s: float = 0.0
    # When the task was ended; 0: it was not.
    ended_s: float = 0.0

    @property
    def key(self) -> Key:
        """Which measurement it is."""
        return self.line, self.task, self.client, self.run

    def as_json(self) -> dict[str, Any]:
        """Return it for the file of results."""
        rounded = {name: round(value, 4) for name, value in self.figures.items()}
        return {**asdict(self), "figures": rounded, "took_s": round(self.took_s, 2)}


def identity(settings: Mapping[str, Any]) -> str:
    """Return what two measurements must have in common to be parts of one run."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


class Log:
    """A file of JSON lines: what was measured under the same settings, now and before."""

    def __init__(self, path: Path, settings: Mapping[str, Any], *, is_fresh: bool = False) -> None:
        """Read what is there under these settings; ``is_fresh`` forgets it."""
        self.records: list[Record] = []
        self._keys: set[Key] = set()
        # What the slow line costs by itself.
        self.costs: dict[str, Figures] = {}
        self.began = _now()
        self._path = path
        self._identity = identity(settings)
        if path.exists():
            if is_fresh:
                path.unlink()
            else:
                self._read()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self.records:
            self._write({"began": self.began, "settings": dict(settings)})

    def __contains__(self, key: Key) -> bool:
        return key in self._keys

    def add(self, record: Record) -> None:
        """Keep a measurement."""
        self._keep(record)
        self._write({"record": record.as_json()})

    def add_cost(self, line: str, cost: Figures) -> None:
        """Keep what a line costs."""
        self.costs[line] = cost
        self._write({"line": line, "cost": cost})

    def _keep(self, record: Record) -> None:
        self.records.append(record)
        self._keys.add(record.key)

    def _write(self, entry: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"of": self._identity, **entry}) + "\n")

    def _read(self) -> None:
        text = self._path.read_text(encoding="utf-8")
        whole, end, rest = text.rpartition("\n")
        if rest:
            # What was being written when it was killed.
            self._path.write_text(whole + end, encoding="utf-8")
        for line in whole.splitlines():
            entry = json.loads(line)
            if entry["of"] != self._identity:
                continue
            if "record" in entry:
                self._keep(Record(**entry["record"]))
            elif "cost" in entry:
                self.costs[entry["line"]] = entry["cost"]
            elif "began" in entry:
                self.began = min(self.began, entry["began"])


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
