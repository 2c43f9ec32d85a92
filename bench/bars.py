"""What is demanded of a task: a figure of allasfs beside that of another client, or a limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

EVERYWHERE = ("loopback", "slow")
LOOPBACK = ("loopback",)
SLOW = ("slow",)

# The medians of one task on one line: figures by client. And those of all tasks.
Medians = Mapping[str, Mapping[str, float]]
AllMedians = Mapping[str, Medians]
# After how many seconds a client was ended that did not get through a task.
Ended = Mapping[str, float]
NOBODY: Ended = MappingProxyType({})
# The figure that is more than this.
ENDED_FIGURE = "seconds"

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
    """How a bar was met: ``value`` beside ``other``, a ratio of at most ``bar.factor`` wanted.

    ``is_ended``: the other was ended after ``other`` seconds; the true ratio is less than this one.
    """

    bar: Bar
    value: float | None
    other: float | None
    other_name: str
    is_ended: bool = False

    @property
    def ratio(self) -> float | None:
        """The ratio, None where one of both was not measured."""
        if self.value is None or self.other is None or self.other <= 0:
            return None
        return self.value / self.other

    @property
    def is_met(self) -> bool | None:
        """Whether the bar is met; None when that was not measured."""
        if self.ratio is None or (self.is_ended and self.ratio > self.bar.factor):
            return None
        return self.ratio <= self.bar.factor


def judge(
    bar: Bar, task: str, found: AllMedians, peers: frozenset[str], ended: Ended = NOBODY
) -> Verdict:
    """Hold one bar of a task to the medians, or to when the others were ``ended``."""
    medians = found.get(task, {})
    value = medians.get(bar.client, {}).get(bar.figure)
    if bar.against == LIMIT:
        return Verdict(bar, value, 1.0, LIMIT)
    another, _, figure = bar.against.partition("/")
    if figure:
        other = found.get(another, {}).get(bar.client, {}).get(figure)
        return Verdict(bar, value, other, another)
    others = peers if bar.against == PEERS else {bar.against}
    least = [(s, name, True) for name, s in ended.items() if bar.figure == ENDED_FIGURE]
    least += [(of[bar.figure], name, False) for name, of in medians.items() if bar.figure in of]
    nobody = (None, "" if bar.against == PEERS else bar.against, False)
    return Verdict(bar, value, *min((each for each in least if each[1] in others), default=nobody))
