"""The tasks: what is timed, and what is demanded of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench import timed
from bench.bars import LIMIT, LOOPBACK, PEERS, RAW, SLOW, Bar
from bench.data import MIB
from bench.lines import CHANGED, FILES, GROWN, NAMES, SMALL
from bench.place import Place
from bench.timed import READ_KEYS, Work

# Demanded of every task.
PEAK_MIB = 250.0
# These ask for each name of a listing by itself.
ASK_EACH = ("rclone", "s3fs")


@dataclass(frozen=True)
class Task:
    """One task; ``name`` selects it."""

    name: str
    title: str
    run: Work
    raw: Work | None = None
    # Beside that on the peak of the memory.
    own_bars: tuple[Bar, ...] = ()
    # Objects that the store reads into its memory before the first measurement.
    warms: tuple[str, ...] = ()
    # Made anew before each measurement, and what is removed after it.
    before: Callable[[Place], None] | None = None
    leaves: tuple[str, ...] = ()
    bucket: str = FILES
    # Only for clients that write back.
    is_write_back: bool = False
    # Clients for which it has too many names.
    too_many: tuple[str, ...] = ()
    # Bytes that the program moves, by the sizes: for CPU per GiB, and for bytes asked for.
    moved: Callable[[Place], int] = lambda place: 0

    @property
    def bars(self) -> tuple[Bar, ...]:
        """What is demanded of it."""
        client = "allasfs-write-back" if self.is_write_back else "allasfs"
        return (*self.own_bars, Bar("peak_mib", PEAK_MIB, LIMIT, client=client))


def _tasks() -> tuple[Task, ...]:
    return (
        Task(
            "read",
            "read one large file",
            timed.read_one,
            timed.with_cpu(timed.raw_read_one),
            (
                Bar("seconds", 1 / 0.85, RAW, LOOPBACK),
                Bar("seconds", 1 / 1.3, PEERS, SLOW),
                Bar("cpu_s_per_gib", 1.0),
                Bar("idle_mib", 60, LIMIT),
            ),
            warms=READ_KEYS[:1],
            moved=lambda place: place.sizes.read_mib * MIB,
        ),
        Task(
            "read4",
            "read four large files at once",
            timed.read_four,
            timed.with_cpu(timed.raw_read_four),
            (Bar("seconds_per_file", 1.0, "read/seconds"),),
            warms=READ_KEYS,
            moved=lambda place: 4 * place.sizes.read_mib * MIB,
        ),
        Task(
            "reread",
            "read a large file again",
            timed.read_again,
            own_bars=(Bar("seconds", 1 / 5),),
            warms=READ_KEYS[:1],
            moved=lambda place: 2 * place.sizes.read_mib * MIB,
        ),
        *(_readers(count) for count in (1, 4, 16)),
        Task(
            "write",
            "write a large file until it is stored",
            timed.write,
            timed.with_cpu(timed.raw_write),
            (
                Bar("seconds", 1 / 0.8, RAW, LOOPBACK),
                Bar("seconds", 1 / 0.85, RAW, SLOW),
                Bar("seconds", 1 / 1.3, PEERS, SLOW, client="allasfs-64M"),
                Bar("cpu_s_per_gib", 1.0),
            ),
            before=timed.make_out,
            leaves=("out/",),
            moved=lambda place: place.sizes.written_mib * MIB,
        ),
        Task(
            "ls",
            "ls -l of a large directory",
            timed.list_twice,
            timed.raw_list,
            (Bar("cold_seconds", 0.7), Bar("warm_seconds", 1.0)),
            bucket=NAMES,
        ),
        Task(
            "find",
            "find in a tree",
            timed.find,
            timed.raw_find,
            (Bar("seconds", 1 / 3),),
            bucket=NAMES,
        ),
        Task(
            "stat",
            "stat of every name",
            timed.stats,
            own_bars=(Bar("seconds", 1 / 5),),
            bucket=NAMES,
        ),
        _grown(0, "10,000"),
        _grown(1, "100,000", Bar("seconds", 5, LIMIT, LOOPBACK)),
        _grown(2, "500,000"),
        Task(
            "small",
            "read small files one after the other",
            timed.small(1),
            timed.raw_small(1),
            (Bar("seconds", 1 / 3, lines=LOOPBACK), Bar("seconds", 1 / 8, lines=SLOW)),
            warms=("small/",),
            bucket=SMALL,
        ),
        Task(
            "small16",
            "read small files, 16 at a time",
            timed.small(16),
            timed.raw_small(16),
            (Bar("seconds", 1 / 1.5),),
            warms=("small/",),
            bucket=SMALL,
        ),
        Task(
            "copy",
            "cp -r of small files until they are stored",
            timed.copy_in,
            timed.raw_copy_in(1),
            (Bar("seconds", 1 / 5, "s3fs"),),
            before=timed.make_out,
            leaves=("out/",),
            bucket=SMALL,
        ),
        Task(
            "drain",
            "cp -r of small files, written back",
            timed.copy_in,
            timed.raw_copy_in(8),
            (Bar("seconds", 1 / 1.3, "rclone-fast", client="allasfs-write-back"),),
            before=timed.make_out,
            leaves=("out/",),
            is_write_back=True,
            bucket=SMALL,
        ),
        Task(
            "rm",
            "rm -r of a large directory",
            timed.remove,
            timed.raw_remove,
            (Bar("seconds", 1 / 2),),
            before=timed.make("doomed/", "names"),
            leaves=("doomed/",),
            bucket=CHANGED,
        ),
        Task(
            "rename",
            "rename a directory",
            timed.rename,
            timed.raw_rename,
            (Bar("seconds", 1 / 2),),
            before=timed.make("before/", "moved"),
            leaves=("before/", "after/"),
            bucket=CHANGED,
        ),
        Task(
            "random",
            "read 4 KiB blocks anywhere in a large file",
            timed.blocks("random"),
            timed.raw_blocks("random"),
            (
                Bar("median_ms", 1.3, RAW),
                Bar("p95_ms", 1.3, RAW),
                Bar("sent_per_byte", 8, LIMIT),
            ),
            warms=READ_KEYS[:1],
            moved=timed.block_bytes,
        ),
        Task(
            "strided",
            "read 4 KiB blocks with gaps in a large file",
            timed.blocks("strided"),
            timed.raw_blocks("strided"),
            (Bar("median_ms", 1.3, RAW), Bar("sent_per_byte", 8, LIMIT)),
            warms=READ_KEYS[:1],
            moved=timed.block_bytes,
        ),
        Task(
            "first",
            "first byte of a large file",
            timed.first_byte,
            timed.raw_first_byte,
            (Bar("seconds", 1.3, RAW),),
            warms=READ_KEYS[:1],
        ),
        Task(
            "tarin",
            "unpack an archive of small files",
            timed.tar_in,
            before=timed.make_out,
            leaves=("out/",),
            bucket=SMALL,
        ),
        Task(
            "tarout",
            "pack small files into an archive",
            timed.tar_out,
            warms=("small/",),
            bucket=SMALL,
        ),
        Task(
            "bam",
            "samtools: the reads of a region",
            timed.samtools,
            own_bars=(Bar("sent_per_byte", 1.5, LIMIT),),
            warms=("bam/",),
            moved=lambda place: int(place.facts["bam_bytes"]),
        ),
    )


def _readers(count: int) -> Task:
    """Return the task of so many readers; more of them are not to be slower than one."""
    return Task(
        f"readers{count}",
        f"read 16 files, {count} at a time",
        timed.readers(count),
        timed.with_cpu(timed.raw_readers(count)),
        () if count == 1 else (Bar("seconds", 1.0, "readers1/seconds"),),
        warms=("readers/",),
        moved=timed.reader_bytes,
    )


def _grown(which: int, count: str, *bars: Bar) -> Task:
    """Return the task of listing so many names; each is to cost what it costs among fewer."""
    names = ("grow10k", "grow100k", "grow500k")
    if which:
        bars = (*bars, Bar("us_per_name", 1.25, f"{names[which - 1]}/us_per_name"))
    return Task(
        names[which],
        f"ls -l of {count} names",
        timed.list_many(which),
        timed.raw_list_many(which),
        bars,
        bucket=GROWN[which],
        too_many=ASK_EACH,
    )


TASKS = {task.name: task for task in _tasks()}
