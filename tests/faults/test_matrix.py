"""Every operation meets every fault, on a real Swift behind the fault proxy.

Each case makes a file system whose store is behind the proxy, lets one request of an operation
fail (once, or that one and all that follow), and then looks: the call ended as ``FAULTS`` says;
another client sees the old or the new version of each file, whole; allasfs shows what is there;
no connection, memory, segment or spool file is left that nobody tells of. ``make faults`` does all
cases; the usual run has every fault for every operation, at some of its requests.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from allasfs.demo import Cloud
from allasfs.store import session as session_module
from allasfs.transfer import reader as reader_module
from tests.faults import actions as do
from tests.faults.actions import Fault, final, lying, passing, silent
from tests.faults.cases import ALLOWED_LOGS, Case, Laboratory, Logs, logged
from tests.faults.operations import OPERATIONS, Operation

pytestmark = [pytest.mark.swift, pytest.mark.timeout(600)]

OK = 0
# Of these only a part of the operations' requests can be made to fail.
FAULTS: tuple[Fault, ...] = (
    # Connections and answers that are no answers: tried again.
    passing(do.reset_before),
    passing(do.reset_within_request),
    passing(do.reset_after),
    passing(do.end_after),
    passing(do.garbage),
    passing(do.cut_off),
    passing(do.cut_off_unannounced),
    passing(do.cut_to_nothing),
    lying(do.cut_off_consistently),
    passing(do.wrong_range),
    passing(do.whole_for_range),
    passing(do.page_of_html),
    passing(do.empty_success),
    lying(do.without("etag"), "no ETag"),
    lying(do.without("content-length"), "no Content-Length"),
    lying(do.without("last-modified", "x-timestamp", "date"), "no times"),
    # Silence: the deadline ends it.
    silent(do.silence),
    silent(do.silence_after),
    silent(do.silence_within_request),
    silent(do.silence_within_headers),
    silent(do.silence_within_body),
    # What may pass.
    *(passing(do.status(number), str(number)) for number in (408, 425, 498, 499)),
    *(passing(do.status(number), str(number)) for number in (500, 502, 503, 504)),
    passing(do.status(429, Retry_After="0"), "429"),
    passing(do.status(503, Retry_After="0"), "503 at once"),
    # What will not.
    final(do.status(400), "400", errno.EINVAL),
    # EFBIG: of a segment, whose bucket may be looked at.
    final(do.status(403), "403", errno.EACCES, errno.ENOENT, errno.EFBIG),
    replace(final(do.status(404), "404", errno.ENOENT, errno.ESTALE), misleads=True),
    final(do.status(405), "405", errno.EIO),
    final(do.status(409), "409", errno.EIO, errno.EEXIST, errno.ENOTEMPTY),
    final(do.status(411), "411", errno.EIO),
    final(do.status(412), "412", errno.ESTALE, errno.EEXIST),
    final(do.status(413), "413", errno.EDQUOT),
    final(do.status(416), "416", errno.ESTALE, errno.EEXIST),
    final(do.status(422), "422", errno.EIO),
    final(do.status(501), "501", errno.EIO),
    final(do.status(503, Retry_After="3600"), "503 in an hour", errno.EIO),
    final(do.status(507), "507", errno.ENOSPC),
    # A new token is got, unless that was done a moment ago (for another case, perhaps).
    Fault("401", do.status(401), frozenset({OK, errno.EACCES}), frozenset({errno.EACCES})),
    # Said of another version than the pinned one, or of another than was sent.
    replace(final(do.wrong_etag, "wrong ETag", OK, errno.ESTALE, errno.EIO), misleads=True),
)
# How many cases of each operation are drawn, by which random numbers; 0: all there are.
CASES = int(os.environ.get("FAULT_CASES", "16"))
SEED = int(os.environ.get("FAULT_SEED", "1"))
WORKERS = 8


@pytest.fixture(scope="module")
def logs() -> Iterator[Logs]:
    with logged() as logs:
        yield logs


@pytest.fixture(scope="module")
def laboratories(
    cloud: Cloud, logs: Logs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Laboratory]]:
    folder = Path(tmp_path_factory.mktemp("faults"))
    found = [Laboratory(cloud, folder / str(number), logs) for number in range(WORKERS)]
    yield found
    for each in found:
        each.close()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(session_module, "LONGEST_WAIT_S", 0.1)
    monkeypatch.setattr(reader_module, "RESUME_WAIT_S", 0.01)


def cases_of(operation: Operation, requests: int) -> list[Case]:
    """Return the cases of an operation: those that are most easily done wrong, and a choice."""
    every = [
        Case(operation, fault, victim, is_lasting)
        for fault in FAULTS
        for victim in range(requests)
        for is_lasting in (False, True)
    ]
    if not CASES:
        return every
    # Lost answers, and answers that look good.
    sure = [
        case
        for case in every
        if case.fault.action is do.reset_after
        or (case.fault.action in (do.page_of_html, do.cut_off_consistently) and not case.is_lasting)
    ]
    others = [case for case in every if case not in sure]
    generator = random.Random(f"{SEED} {operation.name}")
    return sure + generator.sample(others, min(CASES, len(others)))


@pytest.mark.semantics("R1", "R3", "R9", "R11", "C0")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_an_operation_that_meets_a_fault_lies_not_and_hangs_not(
    laboratories: list[Laboratory], logs: Logs, operation: Operation
) -> None:
    logs.lines.clear()
    waiting = cases_of(operation, laboratories[0].requests(operation))
    lock = threading.Lock()
    failures: list[str] = []

    def work(laboratory: Laboratory) -> None:
        while True:
            with lock:
                if not waiting:
                    return
                case = waiting.pop()
            try:
                laboratory.run(case)
            except Exception as exc:
                failures.append(f"{case}: {exc!r}")

    with ThreadPoolExecutor(WORKERS, thread_name_prefix="faults") as pool:
        for job in [pool.submit(work, each) for each in laboratories]:
            job.result()
    assert not failures, "\n".join([f"{len(failures)}:", *sorted(failures)])
    assert [line for line in logs.lines if not ALLOWED_LOGS.search(line)] == []
