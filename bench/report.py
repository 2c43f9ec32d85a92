"""Results as JSON and as a table."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.bars import EVERYWHERE, LIMIT, Verdict, judge
from bench.clients import Client
from bench.runner import Record
from bench.tasks import PEAK, TASKS

Medians = dict[str, dict[str, dict[str, float]]]


def medians(records: Iterable[Record], line: str) -> Medians:
    """Return the medians on a line: task, client, figure."""
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for record in records:
        if record.line == line:
            by_client = values.setdefault(record.task, {})
            for name, value in record.figures.items():
                by_client.setdefault(record.client, {}).setdefault(name, []).append(value)
    return {
        task: {
            client: {name: statistics.median(found) for name, found in figures.items()}
            for client, figures in by_client.items()
        }
        for task, by_client in values.items()
    }


def verdicts(found: Medians, line: str, peers: frozenset[str]) -> list[tuple[str, Verdict]]:
    """Return how the bars are met, by task."""
    judged = []
    for name, by_client in found.items():
        for bar in (*TASKS[name].bars, PEAK):
            if line not in bar.lines:
                continue
            other, _, figure = bar.against.partition("/")
            if figure:
                # Another task of allasfs itself.
                value = by_client.get(bar.client, {}).get(bar.figure)
                against = found.get(other, {}).get(bar.client, {}).get(figure)
                judged.append((name, Verdict(bar, value, against, other)))
            else:
                judged.append((name, judge(bar, by_client, peers)))
    return judged


def table(records: Sequence[Record], peers: frozenset[str]) -> str:
    """Return all figures and bars for people."""
    parts = []
    for line in EVERYWHERE:
        found = medians(records, line)
        if not found:
            continue
        rows = [["task", "figure", "allasfs", "other", "", "ratio", "wanted", ""]]
        for task, verdict in verdicts(found, line, peers):
            bar = verdict.bar
            ratio = verdict.ratio
            met = {True: "met", False: "MISSED", None: "-"}[verdict.is_met]
            row = [task, bar.figure, _short(verdict.value)]
            if bar.against == LIMIT:
                row += ["", "", "", f"<= {bar.factor:g}", met]
            else:
                other = "" if verdict.other is None else _short(verdict.other)
                row += [other, verdict.other_name, _short(ratio), f"<= {bar.factor:.2f}", met]
            if bar.client != "allasfs":
                row[1] += f" ({bar.client})"
            rows.append(row)
        parts.append(f"{line}\n{_aligned(rows)}")
        parts.append(_all_figures(found))
    failed = {(r.line, r.task, r.client, r.error) for r in records if r.error}
    parts += [f"{line} {task} {client}: {why}" for line, task, client, why in sorted(failed)]
    return "\n\n".join(parts)


def _all_figures(found: Medians) -> str:
    shown = ("seconds", "cold_seconds", "warm_seconds", "close_seconds", "median_ms", "p95_ms")
    used = ("cpu_s", "cpu_s_per_gib", "idle_mib", "peak_mib", "requests", "sent_mib")
    rows = [["task", "client", "figures", "used"]]
    for task, by_client in found.items():
        for client, figures in by_client.items():
            texts = [
                ", ".join(f"{name} {_short(figures[name])}" for name in names if name in figures)
                for names in (shown, used)
            ]
            rows.append([task, client, *texts])
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def as_json(
    records: Sequence[Record], clients: Sequence[Client], settings: dict[str, object]
) -> dict[str, object]:
    """Return everything for the file of results."""
    peers = frozenset(client.name for client in clients if client.is_peer)
    result: dict[str, object] = {
        **settings,
        "versions": versions(clients),
        "machine": {
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        },
    }
    for line in EVERYWHERE:
        found = medians(records, line)
        if found:
            result[line] = {
                "medians": found,
                "bars": [_bar(task, verdict) for task, verdict in verdicts(found, line, peers)],
            }
    result["records"] = [record.as_json() for record in records]
    return result


def _bar(task: str, verdict: Verdict) -> dict[str, object]:
    bar = verdict.bar
    return {
        "task": task,
        "figure": bar.figure,
        "client": bar.client,
        "value": verdict.value,
        "against": verdict.other_name,
        "other": verdict.other,
        "at_most": bar.factor,
        "ratio": verdict.ratio,
        "met": verdict.is_met,
    }


def versions(clients: Sequence[Client]) -> dict[str, str]:
    """Return the versions of everything that was measured."""
    found = {client.name: client.version() for client in clients if not client.missing()}
    curl = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True)
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return {
        **found,
        "curl": curl.stdout.splitlines()[0],
        "python": platform.python_version(),
        "commit": git.stdout.strip(),
    }
