"""python -m bench: measure allasfs beside its peers; `make bench` runs it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, product
from pathlib import Path
from typing import Any

from bench import document, machine, report
from bench.clients import clear, clients
from bench.data import Sizes
from bench.lines import LINES, site
from bench.plan import Pace, Plan
from bench.records import Key, Log, Record
from bench.runner import Runner, StoreGoneError, line_cost, planned
from bench.tasks import TASKS

# How the names of the folders begin in which we work; our process id follows.
OURS = "allasfs-bench-"
RESULTS = Path(__file__).parent / "results"
# Of a run of everything in full; what is less goes into files of its own, trial.*.
LATEST = RESULTS / "latest.json"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# How often the store of a line is started again when it has ended.
STORES = 3


def main() -> int:
    """Measure what was asked for; return the exit status, which is 0 whatever was measured."""
    options = _options()
    if options.report:
        peers = frozenset(client.name for client in clients() if client.is_peer)
        _write(report.judged(json.loads(LATEST.read_text()), peers), LATEST)
        return 0
    for each in SIGNALS:
        # nohup means that a hangup is to be ignored.
        if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, _interrupt)
    try:
        results = _measure(options)
    except Interrupted as exc:
        _say("interrupted: the same command measures what is missing")
        return 128 + exc.number
    path = LATEST if _is_full(options) else options.out / "trial.json"
    _write(results, path)
    return 0


class Interrupted(BaseException):
    """One of the signals came; mounts, programs and store are ended on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _interrupt(number: int, _frame: object) -> None:
    for each in SIGNALS:
        # Another one does not interrupt the cleaning up.
        signal.signal(each, lambda *_: None)
    raise Interrupted(number)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    chosen = [client for client in clients() if client.name in options.clients]
    tasks = [TASKS[name] for name in options.tasks]
    sizes = Sizes().scaled(options.scale) if options.scale != 1 else Sizes()
    settings: dict[str, Any] = {
        "commit": machine.commit(),
        "scale": options.scale,
        "sizes": vars(sizes),
        "lines": {name: vars(line) for name, line in LINES.items()},
        "limit_s": options.limit,
        "machine": machine.computer(),
        "versions": machine.versions(clients()),
    }
    log = Log(options.out / "measured.jsonl", settings, is_fresh=options.fresh)
    pace = Pace(options.patience)
    keys = {
        (line, task.name): planned(line, task, chosen, options.runs)
        for line in options.lines
        for task in tasks
    }
    earlier = _earlier(settings)
    parent = options.folder or Path(tempfile.gettempdir())
    for left_over in parent.glob(f"{OURS}[0-9]*-*"):
        if not Path("/proc", left_over.name.split("-")[2]).exists():
            clear(left_over)
    for line, _ in product(options.lines, range(STORES)):
        left = [task for task in tasks if _missing(keys[line, task.name], log, pace)]
        if not left:
            continue
        with _folder(parent) as folder, site(folder / "store", LINES[line]) as there:
            runner = Runner(there, folder, sizes, chosen, options.limit)
            _say(f"{line}: preparing")
            runner.prepare(left)
            if LINES[line].bytes_per_s and line not in log.costs:
                log.add_cost(line, line_cost(there, folder))
            try:
                for task in left:
                    ahead = _missing(chain.from_iterable(keys.values()), log, pace)
                    seconds = Plan(log.records, earlier, pace).seconds(ahead)
                    _say(f"{len(ahead)} measurements left, {_about(seconds)}")
                    for record in runner.measure(task, keys[line, task.name], log, pace):
                        _progress(record)
            except StoreGoneError as exc:
                _say(f"{line}: the store ended: {exc}")
    told = {"runs": options.runs, "patience_s": options.patience, "note": options.note}
    return report.as_json(log, chosen, tasks, {**settings, **told})


@contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    """Make a folder to work in; remove it with whatever is mounted in it."""
    folder = Path(tempfile.mkdtemp(prefix=f"{OURS}{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        clear(folder)


def _missing(keys: Iterable[Key], log: Log, pace: Pace) -> list[Key]:
    """Return what is neither measured nor to be left out."""
    plan = Plan(log.records, pace=pace)
    return [key for key in keys if key not in log and not plan.why_not(*key)]


def _earlier(settings: dict[str, Any]) -> list[Record]:
    """Return the measurements of the last full run, if they are of the same amounts."""
    if not LATEST.exists():
        return []
    results = json.loads(LATEST.read_text())
    if results["sizes"] != settings["sizes"]:
        return []
    return [Record(**record) for record in results["records"]]


def _about(seconds: float | None) -> str:
    if seconds is None:
        return "how long is not known yet"
    return f"about {seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def _progress(record: Record) -> None:
    told = record.error or ", ".join(
        f"{name} {report.short(value)}" for name, value in record.figures.items()
    )
    where = f"{record.line} {record.task} {record.client} {record.run + 1}"
    _say(f"{where:40} {told}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _is_full(options: argparse.Namespace) -> bool:
    """Whether everything is measured in its full amount."""
    everything = [client.name for client in clients()], list(TASKS), list(LINES)
    asked = options.clients, options.tasks, options.lines
    is_all = list(map(set, asked)) == list(map(set, everything))
    return is_all and options.scale == 1 and options.out == RESULTS


def _write(results: dict[str, Any], path: Path) -> None:
    """Write results, table and plot, and for a full run the document."""
    path.write_text(json.dumps(results, indent=1) + "\n")
    text = report.table(results)
    path.with_suffix(".txt").write_text(text + "\n")
    print(text)
    if path == LATEST:
        document.rewrite(results)
    try:
        from bench import plot
    except ImportError as exc:
        _say(f"no plot: {exc}")
    else:
        plot.draw(results, path.with_suffix(".svg"))
    _say(f"written: {path.with_suffix('.*')}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    names = [client.name for client in clients()]
    parser.add_argument("--tasks", type=_words(TASKS), default=list(TASKS), metavar="A,B")
    parser.add_argument("--lines", type=_words(LINES), default=list(LINES), metavar="A,B")
    parser.add_argument("--clients", type=_words(names), default=names, metavar="A,B")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="smaller amounts, to try it")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one measurement")
    parser.add_argument(
        "--patience",
        type=float,
        default=Pace().seconds,
        metavar="SECONDS",
        help="what takes longer is measured less often than --runs",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results are written")
    parser.add_argument("--folder", type=Path, help="where the store and all files are")
    parser.add_argument("--note", default="", help="what is to be known of this run")
    parser.add_argument(
        "--fresh", action="store_true", help="measure all anew; else only what is missing"
    )
    parser.add_argument(
        "--report", action="store_true", help="only judge, and write table, plot and document again"
    )
    return parser.parse_args()


def _words(known: Collection[str]) -> Callable[[str], Sequence[str]]:
    """Return a parser of a list of known words, in the known order."""

    def parse(text: str) -> list[str]:
        words = text.replace(",", " ").split()
        unknown = [word for word in words if word not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
        return [word for word in known if word in words] or list(known)

    return parse


if __name__ == "__main__":
    sys.exit(main())
