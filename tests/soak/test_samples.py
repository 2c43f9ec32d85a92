"""A soak whose process grows is told from one that is level."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .samples import Sample, growth, medians, sample


def samples(values: list[float], name: str = "rss_mib") -> list[Sample]:
    figures = {"rss_mib": 60.0, "fds": 20, "threads": 20}
    rows = [{**figures, name: value} for value in values]
    return [Sample("m", number, **row) for number, row in enumerate(rows)]  # type: ignore[arg-type]


def test_the_second_and_the_last_quarter_are_compared() -> None:
    found = medians(samples([1, 1, 50, 52, 99, 99, 60, 64]))
    assert found["rss_mib"] == (51, 62)


@pytest.mark.parametrize(
    ("name", "level", "grown"), [("rss_mib", 14, 15), ("fds", 8, 9), ("threads", 14, 15)]
)
def test_what_grows_is_named(name: str, level: int, grown: int) -> None:
    base = {"rss_mib": 60, "fds": 20, "threads": 20}[name]
    start = [0, 500, base, base, 0, 500]
    assert growth(samples([*start, base + level, base + level], name)) == []
    (line,) = growth(samples([*start, base + grown, base + grown], name))
    assert line == f"m: {name} grows from {base} to {base + grown}"


def test_a_process_is_looked_at(tmp_path: Path) -> None:
    before = sample("self", os.getpid(), 0)
    files = [(tmp_path / str(number)).open("w") for number in range(10)]
    after = sample("self", os.getpid(), 1)
    for file in files:
        file.close()
    assert after.fds == before.fds + 10
    assert (before.threads, before.rss_mib > 10) == (after.threads, True)
