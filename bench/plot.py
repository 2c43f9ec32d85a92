"""The plot of the README: how fast, task by task, beside the best peer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

from bench.bars import EVERYWHERE, RAW
from bench.plan import headline

PEERS = ("rclone", "rclone-fast", "s3fs")
COLOURS = {
    "allasfs": "#0b6e4f",
    "rclone": "#c7a252",
    "rclone-fast": "#b5461d",
    "s3fs": "#7a6c9d",
    RAW: "#444444",
}
# What stands for allasfs where it takes part in another variant only.
VARIANTS = {"drain": "allasfs-write-back"}


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Draw each line of the results as one panel: seconds of the best peer by those of each."""
    lines = [name for name in EVERYWHERE if name in results]
    if not lines:
        return
    tasks = [
        task
        for task in results["takes_no_part"]
        if any(_best(results, line, task) for line in lines)
    ]
    # Text stays text; its background is white, so that it can be read on a dark page, too.
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "allasfs", "svg.fonttype": "none"})
    size = (1.5 + 4.2 * len(lines), 0.3 * len(tasks) + 1.6)
    figure, panels = plt.subplots(
        1, len(lines), sharey=True, squeeze=False, figsize=size, facecolor="white"
    )
    for panel, line in zip(panels[0], lines, strict=True):
        _panel(panel, results, line, tasks)
    names, marks = panels[0][0].get_legend_handles_labels()[::-1]
    figure.legend(marks, names, loc="upper center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / size[1]))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _panel(panel: Any, results: Mapping[str, Any], line: str, tasks: list[str]) -> None:
    for client, colour in COLOURS.items():
        points = [
            (best / value, place)
            for place, task in enumerate(tasks)
            if (best := _best(results, line, task))
            and (value := _figure(results, line, task, client))
        ]
        if points:
            xs, ys = zip(*points, strict=True)
            look = {"marker": "|", "s": 90} if client == RAW else {"marker": "o", "s": 26}
            if client == "allasfs":
                look["s"] = 60
            panel.scatter(xs, ys, color=colour, label=client, zorder=3, **look)
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.axvline(1, color="#999999", linewidth=0.8)
    panel.set_yticks(range(len(tasks)), tasks)
    panel.tick_params(axis="y", length=0)
    panel.set_ylim(len(tasks) - 0.4, -0.6)
    panel.grid(axis="y", linewidth=0.4)
    panel.set_title(results["lines"][line]["title"], fontsize=9)
    panel.set_xlabel("times as fast as the best peer (right: faster)")
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


def _figure(results: Mapping[str, Any], line: str, task: str, client: str) -> float | None:
    if client == "allasfs":
        client = VARIANTS.get(task, client)
    figures = results.get(line, {}).get("medians", {}).get(task, {}).get(client, {})
    return headline(figures)


def _best(results: Mapping[str, Any], line: str, task: str) -> float | None:
    """Return the figure of the fastest peer; None where no peer was measured."""
    found = [_figure(results, line, task, name) for name in PEERS]
    known = [value for value in found if value]
    return min(known) if known else None
