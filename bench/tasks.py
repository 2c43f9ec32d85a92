"""The tasks: what is timed, and what is demanded of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench import timed
from bench.bars import LIMIT, LOOPBACK, PEERS, SLOW, Bar
from bench.lines import CHANGED, FILES, NAMES, SMALL
from bench.place import MIB, Place
from bench.timed import READ_KEYS, Work

RAW = "raw"
# Demanded of every task.
PEAK = Bar("peak_mib", 250, LIMIT)


@dataclass(frozen=True)
class Task:
    """One task; ``name`` selects it."""

    name: str
    title: str
    run: Work
    raw: Work | None = None
    bars: tuple[Bar, ...] = ()
    # Objects that the store reads into its memory before the clock starts.
    warms: tuple[str, ...] = ()
    # Made anew before each measurement, and what is removed after it.
    before: Callable[[Place], None] | None = None
    leaves: tuple[str, ...] = ()
    bucket: str = FILES
    # Only for clients that write back.
    is_write_back: bool = False
    # Bytes that the program moves, by the sizes: for CPU per GiB, and for bytes asked for.
    moved: Callable[[Place], int] = lambda place: 0


PEAK = Bar("peak_mib", 250, LIMIT)
RAW = "raw"


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
            bars=(Bar("seconds", 1 / 5),),
            warms=READ_KEYS[:1],
            moved=lambda place: 2 * place.sizes.read_mib * MIB,
        ),
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
            "stat", "stat of every name", timed.stats, bars=(Bar("seconds", 1 / 5),), bucket=NAMES
        ),
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
            timed.raw_copy_in,
            (Bar("seconds", 1 / 5, "s3fs"),),
            before=timed.make_out,
            leaves=("out/",),
            bucket=SMALL,
        ),
        Task(
            "drain",
            "cp -r of small files, written back",
            timed.copy_in,
            bars=(Bar("seconds", 1 / 1.3, "rclone-fast", client="allasfs-write-back"),),
            before=timed.make_out,
            leaves=("out/",),
            is_write_back=True,
            bucket=SMALL,
        ),
        Task(
            "rm",
            "rm -r of a large directory",
            timed.remove,
            bars=(Bar("seconds", 1 / 2),),
            before=timed.make("doomed/", "names"),
            leaves=("doomed/",),
            bucket=CHANGED,
        ),
        Task(
            "rename",
            "rename a directory",
            timed.rename,
            bars=(Bar("seconds", 1 / 2),),
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
            bars=(Bar("sent_per_byte", 1.5, LIMIT),),
            warms=("bam/",),
            moved=lambda place: int(place.facts["bam_bytes"]),
        ),
    )


TASKS = {task.name: task for task in _tasks()}
