"""docs/PERFORMANCE.md: the part between two marks is made of bench/results/latest.json."""

from __future__ import annotations

from pathlib import Path

from bench.bars import EVERYWHERE, LIMIT
from bench.report import Results, absent, bounds, notes, short, spoken
from bench.tasks import TASKS

PATH = Path(__file__).parents[1] / "docs" / "PERFORMANCE.md"
BEGIN = "<!-- made by `python -m bench --report` of bench/results/latest.json -->"
END = "<!-- up to here -->"
NOTHING = "Nothing was measured yet: `make bench` fills this in."
HEAD = "| task | figure | allasfs | beside | ratio | wanted | |\n|---|---|---|---|---|---|---|"


def section(results: Results | None) -> str:
    """Return what belongs between the marks."""
    if results is None:
        return NOTHING
    parts = [_about(results)]
    for line in EVERYWHERE:
        if line not in results:
            continue
        found = results[line]
        bars = found["bars"]
        met = sum(bar["met"] is True for bar in bars)
        title = results["lines"][line]["title"]
        parts.append(f"### {title[0].upper()}{title[1:]}")
        parts.append(f"{met} of {len(bars)} bars are met.")
        parts.append("\n".join([HEAD, *map(_row, bars)]))
        parts += _listed("Of these figures:", notes(found))
    parts += _listed("Who takes no part:", absent(results))
    return "\n\n".join(parts)


def _about(results: Results) -> str:
    machine, versions = results["machine"], results["versions"]
    cache = "emptied" if machine["empties_page_cache"] else "not emptied, which needs root,"
    programs = ", ".join(f"{name} {version}" for name, version in versions.items())
    about = (
        f"Measured from {_minute(results['began'])} to {_minute(results['ended'])} UTC at commit"
        f" {results['commit']} by `make bench RUNS={results['runs']}"
        f" PATIENCE={results['patience_s']:g}` on {machine['cores']} cores"
        f" ({machine['processor']}) with {machine['memory_gib']} GiB of memory,"
        f" {machine['system']}, kernel {machine['kernel']}; the page cache was {cache} before each"
        " task."
    )
    if results["note"]:
        about += f" {results['note']}"
    return f"{about}\n\nVersions: {programs}."


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


def _row(bar: Results) -> str:
    client = "" if bar["client"] == "allasfs" else f" of `{bar['client']}`"
    verdict = {True: "met", False: "**missed**", None: "not measured"}[bar["met"]]
    cells = [f"{TASKS[bar['task']].title} (`{bar['task']}`)", f"`{bar['figure']}`{client}"]
    cells.append(short(bar["value"]))
    if bar["against"] == LIMIT:
        cells += ["", "", f"at most {bar['at_most']:g}"]
    else:
        beside = spoken(bar["against"]) if bar["against"] else "no peer"
        more, less = bounds(bar)
        cells.append(f"{more}{short(bar['other'])} {beside}")
        cells += [less + short(bar["ratio"]), f"at most {bar['at_most']:.2f}"]
    return f"| {' | '.join([*cells, verdict])} |"


def _listed(title: str, lines: list[str]) -> list[str]:
    return [f"{title}\n\n" + "\n".join(f"- {line}" for line in lines)] if lines else []


def rewrite(results: Results | None, path: Path = PATH) -> None:
    """Put the results between the marks."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has not the marks between which the results belong")
    path.write_text(f"{before}{BEGIN}\n\n{section(results)}\n\n{END}{after}", encoding="utf-8")
