"""The benchmark's own rules: what is measured how often, what is kept, how a bar is judged."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from bench import document, report
from bench.bars import LIMIT, LOOPBACK, PEERS, RAW, Bar, judge
from bench.data import Sizes
from bench.lines import Site
from bench.place import Place, ProgramError
from bench.plan import DECIDED_FACTOR, ENDED_FACTOR, ENDED_S, Pace, Plan, in_turn
from bench.records import TOO_LONG, Log, Record

PEER_NAMES = frozenset({"rclone", "s3fs"})


def record(client: str, run: int, seconds: float, *, error: str = "", took_s: float = 1) -> Record:
    mounted = {} if client == RAW else {"idle_mib": 50.0}
    figures = {} if error else {"seconds": seconds, **mounted}
    return Record("slow", "ls", client, run, figures, error, took_s)


def why_not(records: Sequence[Record], client: str, run: int, pace: Pace | None = None) -> str:
    return Plan(records, pace=pace or Pace()).why_not("slow", "ls", client, run)


def test_each_round_begins_with_another_client() -> None:
    names = ["a", "b", "c"]
    assert [in_turn(names, run) for run in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


@pytest.mark.parametrize(("took_s", "runs"), [(9, 5), (11, 3), (31, 2), (101, 1)])
def test_the_longer_it_takes_the_less_often_it_is_measured(took_s: float, runs: int) -> None:
    # The first one takes longer: what it has read or written is compared.
    records = [record("rclone", run, 1.0, took_s=took_s + (run == 0) * 0.5) for run in range(runs)]
    left_out = [bool(why_not(records, "rclone", run, Pace(10))) for run in range(5)]
    assert left_out == [run >= runs for run in range(5)]
    assert why_not(records, "allasfs", 4, Pace(10)) == ""
    assert Plan(records, pace=Pace(10)).why_not("loopback", "ls", "rclone", 4) == ""


def test_what_is_far_slower_than_the_fastest_mount_is_ended() -> None:
    assert Plan([record(RAW, 0, 0.01)]).limit_s("slow", "ls") == float("inf")
    quick = Plan([record(RAW, 0, 0.01), record("allasfs", 0, 1.0), record("rclone", 0, 9.0)])
    assert quick.limit_s("slow", "ls") == ENDED_S
    assert Plan([record("allasfs", 0, 60)]).limit_s("slow", "ls") == 60 * ENDED_FACTOR


def test_nobody_is_ended_before_a_bar_is_decided() -> None:
    bars = [Bar("seconds", 0.2, "s3fs"), Bar("seconds", 0.01, lines=LOOPBACK)]
    plan = Plan([record("rclone", 0, 2.0), record("allasfs", 0, 8.0)])
    assert plan.limit_s("slow", "ls", bars) == 8 / 0.2 * DECIDED_FACTOR
    assert plan.limit_s("slow", "ls") == ENDED_S


def test_what_failed_twice_in_succession_or_took_too_long_is_not_tried_again() -> None:
    once = [record("rclone", 0, 0, error="x")]
    assert why_not(once, "rclone", 1) == ""
    assert why_not([*once, record("rclone", 1, 1.0)], "rclone", 2) == ""
    assert why_not([*once, record("rclone", 1, 0, error="y")], "rclone", 2) != ""
    assert why_not([record("rclone", 0, 0, error=f"TimeoutError: {TOO_LONG} 600 s")], "rclone", 1)


def test_the_estimate_takes_what_is_most_alike() -> None:
    records = [record("rclone", 0, 1.0, took_s=7), record("s3fs", 0, 1.0, took_s=3)]
    plan = Plan(records, [Record("slow", "rm", "s3fs", 0, {}, "", 100)], Pace(10))
    assert plan.seconds([("slow", "ls", "rclone", 1)]) == 7
    assert plan.seconds([("loopback", "ls", "rclone", 0)]) == 7
    assert plan.seconds([("slow", "ls", "allasfs", 0)]) == 5
    assert plan.seconds([("slow", "rm", "rclone", 0)]) == 100
    assert plan.seconds([("slow", "rm", "rclone", run) for run in range(5)]) == 200
    assert Plan([]).seconds([("slow", "ls", "rclone", 1)]) is None


def test_no_program_outlives_what_it_was_run_for(tmp_path: Path) -> None:
    place = Place(cast("Site", None), Sizes(), tmp_path)
    with pytest.raises(ProgramError, match="false ended with status 1"):
        place.together([["false"], ["sleep", "1000"]])
    (sleeping,) = place.running
    assert sleeping.poll() is None
    place.end_programs()
    assert sleeping.returncode == -signal.SIGKILL
    assert not place.running


def test_an_interrupted_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "measured.jsonl"
    log = Log(path, {"commit": "a"})
    log.add(record("rclone", 0, 1.25))
    log.add_cost("slow", {"line_mb_per_s": 400.0})
    with path.open("a") as file:
        file.write('{"of": "cut o')
    again = Log(path, {"commit": "a"})
    assert again.records == log.records
    assert again.costs == log.costs
    assert again.began == log.began
    assert ("slow", "ls", "rclone", 0) in again
    assert ("slow", "ls", "rclone", 1) not in again
    again.add(record("rclone", 1, 1.5))
    assert len(Log(path, {"commit": "a"}).records) == 2
    assert Log(path, {"commit": "b"}).records == []
    assert Log(path, {"commit": "a"}, is_fresh=True).records == []


def test_a_bar_is_held_to_the_best_peer_to_another_task_or_to_a_limit() -> None:
    found = {
        "read4": {
            "allasfs": {"seconds": 2.0},
            "rclone": {"seconds": 3.0},
            "s3fs": {"seconds": 4.0},
        },
        "read": {"allasfs": {"seconds": 4.0}},
    }
    peers = judge(Bar("seconds", 0.7, PEERS), "read4", found, PEER_NAMES)
    assert (peers.other, peers.other_name, peers.is_met) == (3.0, "rclone", True)
    another = judge(Bar("seconds", 0.4, "read/seconds"), "read4", found, PEER_NAMES)
    assert (another.ratio, another.is_met) == (0.5, False)
    limit = judge(Bar("seconds", 2, LIMIT), "read4", found, PEER_NAMES)
    assert limit.is_met is True
    missing = judge(Bar("seconds", 1, RAW), "read4", found, PEER_NAMES)
    assert missing.is_met is None


@pytest.mark.parametrize(
    ("factor", "rclone_s", "is_met"),
    [(0.1, None, True), (0.01, None, None), (0.1, 25.0, True), (0.05, 25.0, False)],
)
def test_a_peer_that_was_ended_takes_longer_than_that(
    factor: float, rclone_s: float | None, is_met: bool | None
) -> None:
    found = {"small": {"allasfs": {"seconds": 2.0}}}
    if rclone_s is not None:
        found["small"]["rclone"] = {"seconds": rclone_s}
    ended = {"s3fs": 30.0, "rclone-fast": 40.0, RAW: 1.0}
    verdict = judge(Bar("seconds", factor), "small", found, PEER_NAMES, ended)
    assert verdict.is_met is is_met
    assert verdict.other == (rclone_s or 30.0)
    assert verdict.is_ended is (rclone_s is None)
    assert judge(Bar("seconds", 0.1, "s3fs"), "small", found, PEER_NAMES, ended).is_met is True
    assert judge(Bar("p95_ms", 0.1, "s3fs"), "small", found, PEER_NAMES, ended).is_met is None


def test_figures_failures_and_what_was_left_out_are_told(tmp_path: Path) -> None:
    log = Log(tmp_path / "measured.jsonl", {})
    for run in range(2):
        log.add(record("allasfs", run, 1.0))
        log.add(record("rclone", run, 30.0, took_s=40))
        log.add(record("s3fs", run, 0, error="ProgramError: ls ended with status 2"))
    settings = {
        "commit": "abc",
        "runs": 5,
        "patience_s": 4,
        "note": "",
        "lines": {"slow": {"title": "a slow line"}},
        "machine": {
            "processor": "p",
            "cores": 2,
            "memory_gib": 8,
            "kernel": "6",
            "system": "Debian",
            "empties_page_cache": True,
        },
        "versions": {"python": "3.11"},
    }
    results = report.as_json(log, [], [], settings)
    for text in (report.table(results), document.section(results)):
        assert "ls, s3fs: failed twice: ProgramError: ls ended with status 2" in text
        assert "measured twice only, it takes longer than 12 s: ls (rclone)" in text
    assert results["slow"]["runs"] == {"ls": {"allasfs": 2, "rclone": 2}}
    assert results["slow"]["medians"]["ls"]["allasfs"]["seconds"] == 1.0
    # Bars that were changed since are those of the tasks again.
    bars = results["slow"]["bars"]
    assert bars
    results["slow"] = {**results["slow"], "bars": bars[1:]}
    assert report.judged(results, frozenset())["slow"]["bars"] == bars
