"""What is demanded of a task: a figure of allasfs beside that of another client, or a limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EVERYWHERE = ("loopback", "slow")
LOOPBACK = ("loopback",)
SLOW = ("slow",)

# The medians of one task on one line: figures by client. And those of all tasks.
Medians = Mapping[str, Mapping[str, float]]
AllMedians = Mapping[str, Medians]

# Beside what a figure is held, other than a client, or a figure of another task (TASK/FIGURE).
PEERS = "peers"
LIMIT = "limit"
# The raw client: curl, or python-swiftclient.
RAW = "raw"


@dataclass(frozen=True)
class Bar:
    """``figure`` of ``client`` is at most ``factor`` times that of ``against``.

    ``against`` is a client, the best of the peers, the same client's figure of another task
    (TASK/FIGURE), or nobody: then the factor is the limit itself.
    """

    figure: str
    factor: float
    against: str = PEERS
    lines: tuple[str, ...] = EVERYWHERE
    client: str = "allasfs"


@dataclass(frozen=True)
class Verdict:
    """How a bar was met: ``value`` beside ``other``, a ratio of at most ``bar.factor`` wanted."""

    bar: Bar
    value: float | None
    other: float | None
    other_name: str

    @property
    def ratio(self) -> float | None:
        """The ratio, None where one of both was not measured."""
        if self.value is None or self.other is None or self.other <= 0:
            return None
        return self.value / self.other

    @property
    def is_met(self) -> bool | None:
        """Whether the bar is met; None when that was not measured."""
        return None if self.ratio is None else self.ratio <= self.bar.factor


def best_peer(medians: Medians, figure: str, peers: frozenset[str]) -> tuple[float | None, str]:
    """Return the lowest figure of the peers, and whose it is."""
    found = [
        (figures[figure], name)
        for name, figures in medians.items()
        if name in peers and figure in figures
    ]
    return min(found) if found else (None, "")


def judge(bar: Bar, task: str, found: AllMedians, peers: frozenset[str]) -> Verdict:
    """Hold one bar of a task to the medians."""
    medians = found.get(task, {})
    value = medians.get(bar.client, {}).get(bar.figure)
    if bar.against == LIMIT:
        return Verdict(bar, value, 1.0, LIMIT)
    if bar.against == PEERS:
        other, name = best_peer(medians, bar.figure, peers)
        return Verdict(bar, value, other, name)
    another, _, figure = bar.against.partition("/")
    if figure:
        other = found.get(another, {}).get(bar.client, {}).get(figure)
        return Verdict(bar, value, other, another)
    return Verdict(bar, value, medians.get(bar.against, {}).get(bar.figure), bar.against)
