"""python -m bench: measure allasfs beside its peers; `make bench` runs it."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from bench import report
from bench.clients import Client, clients
from bench.data import Sizes
from bench.lines import LINES, site
from bench.runner import Record, Runner, line_cost, progress
from bench.tasks import TASKS

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Measure what was asked for; return the exit status, which is 0 whatever was measured."""
    options = _options()
    # Mounts and the store are ended also when this is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = [client for client in clients() if client.name in options.clients]
    sizes = Sizes().scaled(options.scale) if options.scale != 1 else Sizes()
    records: list[Record] = []
    costs: dict[str, object] = {}
    began = time.time()
    for name in options.lines:
        with (
            tempfile.TemporaryDirectory(prefix="allasfs-bench-", dir=options.folder) as folder,
            site(Path(folder) / "store", LINES[name]) as there,
        ):
            runner = Runner(there, Path(folder), sizes, chosen, options.limit)
            runner.prepare(options.tasks)
            if LINES[name].bytes_per_s:
                costs[name] = line_cost(there)
            for task in options.tasks:
                for record in runner.measure(TASKS[task], options.runs):
                    progress(record)
                    records.append(record)
    settings: dict[str, object] = {
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "note": options.note,
        "runs": options.runs,
        "sizes": vars(sizes),
        "lines": {name: vars(LINES[name]) for name in options.lines},
        "cost_of_the_slow_line": costs,
    }
    _write(records, chosen, settings, options)
    return 0


def _write(
    records: Sequence[Record],
    chosen: Sequence[Client],
    settings: dict[str, object],
    options: argparse.Namespace,
) -> None:
    results = report.as_json(records, chosen, settings)
    peers = frozenset(client.name for client in chosen if client.is_peer)
    text = report.table(records, peers)
    out = options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    out.with_suffix(".txt").write_text(text + "\n")
    print(text)
    print(f"\nwritten: {out}")
    try:
        from bench import plot
    except ImportError as exc:
        print(f"no plot: {exc}", file=sys.stderr)
        return
    plot.draw(results, out.with_suffix(".svg"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    names = [client.name for client in clients()]
    parser.add_argument("--tasks", type=_words(TASKS), default=list(TASKS), metavar="A,B")
    parser.add_argument("--lines", type=_words(LINES), default=list(LINES), metavar="A,B")
    parser.add_argument("--clients", type=_words(names), default=names, metavar="A,B")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="smaller amounts, to try it")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one measurement")
    parser.add_argument("--out", type=Path, default=RESULTS / "latest.json")
    parser.add_argument("--folder", type=Path, help="where the store and all files are")
    parser.add_argument("--note", default="", help="what is to be known of this run")
    return parser.parse_args()


def _words(known: Collection[str]) -> Callable[[str], list[str]]:
    """Return a parser of a list of known words."""

    def parse(text: str) -> list[str]:
        words = text.replace(",", " ").split()
        unknown = [word for word in words if word not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
        return words or list(known)

    return parse


if __name__ == "__main__":
    sys.exit(main())
