"""Results: everything as JSON, and of that a table for people."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.bars import EVERYWHERE, LIMIT, RAW, Verdict, judge
from bench.clients import Client
from bench.plan import ENDED, Pace, Plan
from bench.records import Log, Record
from bench.runner import takes_no_part
from bench.tasks import TASKS, Task

Results = Mapping[str, Any]
Medians = dict[str, dict[str, dict[str, float]]]

TIMES = (
    "seconds",
    "cold_seconds",
    "warm_seconds",
    "close_seconds",
    "median_ms",
    "p95_ms",
    "ms_per_name",
)
USED = ("cpu_s", "cpu_s_per_gib", "idle_mib", "peak_mib", "requests", "sent_mib")
VERDICTS = {True: "met", False: "MISSED", None: "-"}


# -- as JSON --------------------------------------------------------------------------------------


def as_json(
    log: Log, clients: Sequence[Client], tasks: Sequence[Task], settings: Results
) -> dict[str, Any]:
    """Return everything for the file of results."""
    peers = frozenset(client.name for client in clients if client.is_peer)
    result: dict[str, Any] = {
        "began": log.began,
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **settings,
        "cost_of_lines": log.costs,
        "takes_no_part": {task.name: _absent(task, clients) for task in tasks},
    }
    for line in EVERYWHERE:
        records = [record for record in log.records if record.line == line]
        if records:
            found = medians(records)
            result[line] = {
                "medians": found,
                "bars": _bars(found, line, peers, _ended(records)),
                "runs": _runs(records),
                "left_out": _left_out(
                    log.records, line, settings["runs"], Pace(settings["patience_s"])
                ),
                "failed": _failed(records),
            }
    result["records"] = [record.as_json() for record in log.records]
    return result


def judged(results: Results, peers: frozenset[str]) -> dict[str, Any]:
    """Return the same measurements held to the bars of today."""
    records = [Record(**record) for record in results["records"]]
    found = dict(results)
    for line in EVERYWHERE:
        if line in results:
            ended = _ended(record for record in records if record.line == line)
            bars = _bars(results[line]["medians"], line, peers, ended)
            found[line] = {**results[line], "bars": bars}
    return found


def _absent(task: Task, clients: Iterable[Client]) -> dict[str, str]:
    """Return who does not do a task, and why; variants for other tasks are not spoken of."""
    return {
        client.name: why
        for client in clients
        if (not client.only or task.name in client.only) and (why := takes_no_part(task, client))
    }


def medians(records: Iterable[Record]) -> Medians:
    """Return the medians: task, client, figure."""
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for record in records:
        for name, value in record.figures.items():
            by_client = values.setdefault(record.task, {})
            by_client.setdefault(record.client, {}).setdefault(name, []).append(value)
    return {
        task: {
            client: {name: statistics.median(found) for name, found in figures.items()}
            for client, figures in by_client.items()
        }
        for task, by_client in values.items()
    }


def _ended(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """Return after how many seconds clients were ended: task, client."""
    ended: dict[str, dict[str, float]] = {}
    for record in records:
        if record.ended_s:
            ended.setdefault(record.task, {})[record.client] = record.ended_s
    return ended


def _bars(
    found: Medians, line: str, peers: frozenset[str], ended: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    return [
        _bar(task, judge(bar, task, found, peers, ended.get(task, {})))
        for task in found
        for bar in TASKS[task].bars
        if line in bar.lines
    ]


def _bar(task: str, verdict: Verdict) -> dict[str, Any]:
    bar = verdict.bar
    return {
        "task": task,
        "figure": bar.figure,
        "client": bar.client,
        "value": verdict.value,
        "against": verdict.other_name,
        "other": verdict.other,
        "is_ended": verdict.is_ended,
        "at_most": bar.factor,
        "ratio": verdict.ratio,
        "met": verdict.is_met,
    }


def _runs(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """Return how often each client did each task."""
    runs: dict[str, dict[str, int]] = {}
    for record in records:
        if record.figures:
            by_client = runs.setdefault(record.task, {})
            by_client[record.client] = by_client.get(record.client, 0) + 1
    return runs


def _left_out(records: Sequence[Record], line: str, runs: int, pace: Pace) -> list[dict[str, Any]]:
    """Return what was measured less often than asked for, and why."""
    plan = Plan(records, pace=pace)
    found: list[dict[str, Any]] = []
    for task, client in dict.fromkeys((r.task, r.client) for r in records if r.line == line):
        reasons = (plan.why_not(line, task, client, run) for run in range(runs))
        why = next(filter(None, reasons), "")
        # What was ended is told as a failure.
        if why and why != ENDED:
            done = sum((r.line, r.task, r.client) == (line, task, client) for r in records)
            found.append({"task": task, "client": client, "runs": done, "why": why})
    return found


def _failed(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return what failed, and how often for each reason."""
    counts: dict[tuple[str, str, str], int] = {}
    for record in records:
        if record.error:
            key = (record.task, record.client, record.error)
            counts[key] = counts.get(key, 0) + 1
    return [
        {"task": task, "client": client, "times": count, "why": why}
        for (task, client, why), count in counts.items()
    ]


# -- for people -----------------------------------------------------------------------------------


def table(results: Results) -> str:
    """Return all bars and figures."""
    parts = []
    for line in EVERYWHERE:
        if line not in results:
            continue
        found = results[line]
        parts.append(f"{line}: {results['lines'][line]['title']}")
        parts.append(_aligned([_HEAD, *(_bar_row(bar) for bar in found["bars"])]))
        parts.append(_all_figures(found["medians"]))
        parts += [f"{line} {words}" for words in notes(found)]
    parts += absent(results)
    return "\n\n".join(parts)


_HEAD = ["task", "figure", "allasfs", "other", "", "ratio", "wanted", ""]


def _bar_row(bar: Results) -> list[str]:
    figure = bar["figure"] if bar["client"] == "allasfs" else f"{bar['figure']} ({bar['client']})"
    row = [bar["task"], figure, short(bar["value"])]
    if bar["against"] == LIMIT:
        row += ["", "", "", f"<= {bar['at_most']:g}"]
    else:
        more, less = bounds(bar)
        row += [more + short(bar["other"]), bar["against"], less + short(bar["ratio"])]
        row.append(f"<= {bar['at_most']:.2f}")
    return [*row, VERDICTS[bar["met"]]]


def _all_figures(found: Results) -> str:
    rows = [["task", "client", "figures", "used"]]
    for task, by_client in found.items():
        for client, figures in by_client.items():
            texts = [
                ", ".join(f"{name} {short(figures[name])}" for name in names if name in figures)
                for names in (TIMES, USED)
            ]
            rows.append([task, client, *texts])
    return _aligned(rows)


def notes(found: Results) -> list[str]:
    """Return what is to be known of the figures on a line: what failed, what was left out."""
    failed = [
        f"{each['task']}, {each['client']}: failed {_times(each['times'])}: {each['why']}"
        for each in found["failed"]
    ]
    less: dict[tuple[int, str], dict[str, list[str]]] = {}
    for each in found["left_out"]:
        tasks = less.setdefault((each["runs"], each["why"]), {})
        tasks.setdefault(each["task"], []).append(each["client"])
    told = [
        f"measured {_times(runs)} only, {why}: "
        + "; ".join(f"{task} ({', '.join(clients)})" for task, clients in tasks.items())
        for (runs, why), tasks in sorted(less.items())
    ]
    return [*failed, *told]


def absent(results: Results) -> list[str]:
    """Return who takes no part in which task, and why."""
    tasks: dict[tuple[str, str], list[str]] = {}
    for task, clients in results["takes_no_part"].items():
        for client, why in clients.items():
            tasks.setdefault((client, why), []).append(task)
    return [f"{client} not in {', '.join(found)}: {why}" for (client, why), found in tasks.items()]


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def short(value: float | None) -> str:
    """Return a figure in three digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def bounds(bar: Results) -> tuple[str, str]:
    """Return what stands before the other's figure and before the ratio: it may have been ended."""
    return ("> ", "< ") if bar["is_ended"] else ("", "")


def spoken(client: str) -> str:
    """Return a client's name for a sentence."""
    return "the raw client" if client == RAW else client
