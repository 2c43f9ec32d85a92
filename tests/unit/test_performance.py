"""docs/PERFORMANCE.md says what bench/results/latest.json says, and has a word for every bar."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench import document
from bench.bars import EVERYWHERE, RAW
from bench.tasks import TASKS

TEXT = document.PATH.read_text(encoding="utf-8")
LATEST = document.PATH.parents[1] / "bench/results/latest.json"
RESULTS = json.loads(LATEST.read_text(encoding="utf-8")) if LATEST.exists() else None
LIMITS = TEXT.partition("## What limits what is missed")[2]


def test_the_table_is_made_of_the_latest_results(tmp_path: Path) -> None:
    copy = tmp_path / "PERFORMANCE.md"
    copy.write_text(TEXT, encoding="utf-8")
    document.rewrite(RESULTS, copy)
    assert copy.read_text(encoding="utf-8") == TEXT


def test_a_document_without_the_marks_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "PERFORMANCE.md"
    copy.write_text(TEXT.replace(document.END, ""), encoding="utf-8")
    with pytest.raises(ValueError, match="has not the marks"):
        document.rewrite(RESULTS, copy)


def test_every_bar_but_that_on_memory_has_a_place_that_says_what_limits_it() -> None:
    bars = {f"{task.name}/{bar.figure}" for task in TASKS.values() for bar in task.bars}
    bars = {bar for bar in bars if not bar.endswith("/peak_mib")}
    rows = [line.split(" | ")[0] for line in LIMITS.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(named) == sorted(bars)


def test_every_task_is_described() -> None:
    tasks = TEXT.partition("## The tasks")[2].partition(document.BEGIN)[0]
    rows = [line.split(" | ")[0] for line in tasks.splitlines() if line.startswith("| `")]
    assert [name for row in rows for name in re.findall(r"`([^`]+)`", row)] == list(TASKS)


def test_the_requests_of_every_task_are_counted_by_tests_that_are_there() -> None:
    told = TEXT.partition("What allasfs asks of the store for them")[2].partition("The bars (")[0]
    words = re.findall(r"`([^`]+)`", told)
    counting = [word for word in words if word.startswith("test_")]
    assert sorted(set(words) - set(counting)) == sorted(TASKS)
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert [name for name in counting if f"def {name}(" not in tests] == []


def test_the_results_have_the_versions_and_what_every_measurement_used() -> None:
    assert RESULTS is not None
    assert {"allasfs", "allasfs-mfusepy", "rclone", "s3fs"} <= set(RESULTS["versions"])
    assert {"curl", "python-swiftclient", "fusepy", "swift"} <= set(RESULTS["versions"])
    measured = [record for record in RESULTS["records"] if not record["error"]]
    for record in measured:
        used = {"requests", "sent_mib", "cpu_s"}
        if record["client"] != RAW:
            used |= {"idle_mib", "peak_mib"}
        if record["task"].startswith(("read", "write")) and record["client"] != RAW:
            used.add("cpu_s_per_gib")
        assert used <= set(record["figures"]), record
    done = {(record["line"], record["task"]) for record in measured}
    assert done == {(line, task) for line in EVERYWHERE for task in TASKS}


def test_the_readme_shows_the_plot() -> None:
    plot = LATEST.with_suffix(".svg")
    readme = (LATEST.parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"]({plot.relative_to(LATEST.parents[2])})" in readme
    assert "<svg" in plot.read_text(encoding="utf-8")
