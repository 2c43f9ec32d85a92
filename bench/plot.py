"""The plot of the README: how much faster, task by task, than the best peer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

# What stands for a task, where it has several figures.
FIGURES = ("seconds", "cold_seconds", "median_ms")
COLOURS = {
    "allasfs": "#0b6e4f",
    "rclone": "#c7a252",
    "rclone-fast": "#b5651d",
    "s3fs": "#7a6c9d",
    "raw": "#444444",
}
MARKS = {"raw": "|"}


def draw(results: Any, path: Path) -> None:
    """Draw each line of the results as one panel: seconds of the best peer by those of each."""
    lines = [name for name in ("loopback", "slow") if name in results]
    if not lines:
        return
    tasks = [task for task in results[lines[0]]["medians"] if _best_peer(results, lines[0], task)]
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "allasfs", "svg.fonttype": "none"})
    figure, panels = plt.subplots(
        1, len(lines), sharey=True, squeeze=False, figsize=(5 * len(lines), 0.36 * len(tasks) + 1.4)
    )
    for panel, line in zip(panels[0], lines, strict=True):
        _panel(panel, results, line, tasks)
    panels[0][0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=5, frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _panel(panel: Any, results: Any, line: str, tasks: list[str]) -> None:
    for client, colour in COLOURS.items():
        points = []
        for place, task in enumerate(tasks):
            best = _best_peer(results, line, task)
            value = _figure(results, line, task, client)
            if best and value:
                points.append((best / value, place))
        if points:
            xs, ys = zip(*points, strict=True)
            size = 60 if client == "allasfs" else 30
            mark = MARKS.get(client, "o")
            panel.scatter(xs, ys, s=size, color=colour, marker=mark, label=client, zorder=3)
    panel.set_xscale("log")
    panel.axvline(1, color="#999999", linewidth=0.8)
    panel.set_yticks(range(len(tasks)), tasks)
    panel.invert_yaxis()
    panel.grid(axis="y", linewidth=0.4)
    panel.set_title(results["lines"][line]["title"], fontsize=9)
    panel.set_xlabel("times as fast as the best peer")
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


def _figure(results: Any, line: str, task: str, client: str) -> float | None:
    figures = results[line]["medians"].get(task, {}).get(client, {})
    found = [figures[name] for name in FIGURES if name in figures]
    return found[0] if found else None


def _best_peer(results: Any, line: str, task: str) -> float | None:
    found = [_figure(results, line, task, name) for name in ("rclone", "rclone-fast", "s3fs")]
    known = [value for value in found if value]
    return min(known) if known else None
