"""Random operations on a Vfs over a store in memory, each compared with the reference.

The normal run draws the same operations each time (``derandomize``): a failure is of the change
that is tested, not of chance, and the counts below hold everywhere. New ones are drawn by
``make fuzz``, which remembers what failed.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import OPERATIONS, Machine
from tests.model.others import Alone, Everything, Failing, Shared

STEPS = 30
# Runs of STEPS operations at most, and how many operations they must come to, together 20,000.
NORMAL: list[tuple[type[Machine], int, int]] = [
    (Alone, 300, 5000),
    (Shared, 400, 6000),
    (Failing, 400, 6000),
    (Everything, 200, 3000),
]
# What the product says of what it cannot help.
WARNINGS = (
    "are not shown|left over|was not stored|is a second name|keeps its mark|is a copy of a part"
    "|a part of .* is left|may be left"
)
# All but ``explain``, which traces every line: twice the time, and no more is found.
PHASES = set(hypothesis.Phase) - {hypothesis.Phase.explain}
# Runs of each machine with random operations: ``make fuzz`` sets it.
FUZZ_RUNS = int(os.environ.get("MODEL_FUZZ_RUNS", "0"))


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize(("machine", "runs", "least"), NORMAL)
def test_a_mount_does_what_the_reference_permits(
    machine: type[Machine], runs: int, least: int, expected_logs: Callable[[str], None]
) -> None:
    if machine is not Alone:
        expected_logs(WARNINGS)
    # They take long and cannot hang: nothing in them waits.
    faulthandler.cancel_dump_traceback_later()
    settings = hypothesis.settings(
        max_examples=FUZZ_RUNS or runs,
        derandomize=not FUZZ_RUNS,
        stateful_step_count=STEPS,
        deadline=None,
        phases=PHASES,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(machine, settings=settings)
    assert FUZZ_RUNS or OPERATIONS[machine.__name__] >= least
