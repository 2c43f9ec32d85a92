"""The works that are timed: each on a mount, some also with the raw client.

All figures are such that less is better. What is checked is checked after the clock has stopped.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import time
from collections.abc import Callable

from bench.data import MIB
from bench.place import Place, WrongBytesError
from bench.records import Figures
from bench.worker import BLOCK

Work = Callable[[Place], Figures]


def with_cpu(work: Work) -> Work:
    """Tell the CPU seconds of the programs that the work ran: of curl there is no other process."""

    def done(place: Place) -> Figures:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        figures = work(place)
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = now.ru_utime - before.ru_utime + now.ru_stime - before.ru_stime
        return {**figures, "cpu_s": used}

    return done


# -- large files ----------------------------------------------------------------------------------

READ_KEYS = tuple(f"large/{number}.bin" for number in range(4))
READER_KEYS = tuple(f"readers/{number:02d}.bin" for number in range(16))


def read_one(place: Place) -> Figures:
    """Read a large file with cat."""
    path = place.mount / READ_KEYS[0]
    seconds = place.run("cat", path)
    place.expect_file(path, place.facts[READ_KEYS[0]])
    return {"seconds": seconds}


def raw_read_one(place: Place) -> Figures:
    """Read a large object with curl."""
    return {"seconds": place.run(*place.curl(READ_KEYS[0]))}


def read_four(place: Place) -> Figures:
    """Read four large files with cat at once."""
    paths = [place.mount / key for key in READ_KEYS]
    seconds = place.together([["cat", str(path)] for path in paths])
    for path, key in zip(paths, READ_KEYS, strict=True):
        place.expect_file(path, place.facts[key])
    return {"seconds": seconds, "seconds_per_file": seconds / len(paths)}


def raw_read_four(place: Place) -> Figures:
    """Read four large objects with curl at once."""
    seconds = place.together([place.curl(key) for key in READ_KEYS])
    return {"seconds": seconds, "seconds_per_file": seconds / len(READ_KEYS)}


def read_again(place: Place) -> Figures:
    """Read a large file that was read a moment ago."""
    path = place.mount / READ_KEYS[0]
    place.run("cat", path)
    return {"seconds": place.run("cat", path)}


def readers(count: int) -> Work:
    """Let so many programs share the reading of 16 files, each one file after the other."""

    def run(place: Place) -> Figures:
        paths = [place.mount / key for key in READER_KEYS]
        shares = [["cat", *map(str, paths[first::count])] for first in range(count)]
        seconds = place.together(shares)
        for path, key in zip(paths, READER_KEYS, strict=True):
            place.expect_file(path, place.facts[key])
        return {"seconds": seconds}

    return run


def raw_readers(count: int) -> Work:
    """Let so many curls share the reading of 16 objects, each one object after the other."""

    def run(place: Place) -> Figures:
        urls = [place.curl(key)[-1] for key in READER_KEYS]
        return {
            "seconds": place.together(
                [[*place.curl("")[:-1], *urls[first::count]] for first in range(count)]
            )
        }

    return run


def reader_bytes(place: Place) -> int:
    """Return how many bytes the 16 files have."""
    return len(READER_KEYS) * place.sizes.reader_mib * MIB


def write(place: Place) -> Figures:
    """Copy a large file in; wait until the store has it."""
    source, key = place.local / "written.bin", "out/written.bin"
    size = source.stat().st_size
    began = time.perf_counter()
    closed = place.run("cp", source, place.mount / key)
    place.wait_for(lambda: place.site.size(key) == size, f"{key} is stored")
    figures = {"seconds": time.perf_counter() - began, "close_seconds": closed}
    _check_written(place, key)
    return figures


def raw_write(place: Place) -> Figures:
    """Store a large file with curl."""
    key = "out/written.bin"
    seconds = place.run(*place.curl(key, "-T", str(place.local / "written.bin")))
    _check_written(place, key)
    return {"seconds": seconds, "close_seconds": seconds}


def _check_written(place: Place, key: str) -> None:
    def check() -> None:
        md5 = hashlib.md5(place.site.get(key), usedforsecurity=False).hexdigest()
        place.expect(key, md5, place.facts["written.bin"])

    place.compare(check)


# -- names ----------------------------------------------------------------------------------------


def list_twice(place: Place) -> Figures:
    """List a large directory, cold and warm."""
    folder = place.mount / "flat"
    cold = place.run("ls", "-l", folder)
    warm = place.run("ls", "-l", folder)
    place.compare(
        lambda: place.expect("flat", str(len(os.listdir(folder))), str(place.sizes.names))
    )
    return {"cold_seconds": cold, "warm_seconds": warm}


def raw_list(place: Place) -> Figures:
    """List the same names by one request."""
    figures, _ = place.work("raw_list", "flat/")
    return {"cold_seconds": figures["seconds"], "cpu_s": figures["cpu_s"]}


def list_many(which: int) -> Work:
    """List one of the directories whose growth is looked at."""

    def run(place: Place) -> Figures:
        folder, count = place.mount / "many", place.sizes.grown[which]
        seconds = place.run("ls", "-l", folder)
        place.compare(lambda: place.expect("many", str(len(os.listdir(folder))), str(count)))
        return _listed(seconds, count)

    return run


def raw_list_many(which: int) -> Work:
    """List the same names by as few requests as possible."""

    def run(place: Place) -> Figures:
        figures, _ = place.work("raw_list", "many/")
        listed = _listed(figures["seconds"], place.sizes.grown[which])
        return {**listed, "cpu_s": figures["cpu_s"]}

    return run


def _listed(seconds: float, count: int) -> Figures:
    return {"seconds": seconds, "us_per_name": seconds / count * 1e6}


def find(place: Place) -> Figures:
    """Look for files in a tree by their size."""
    return {"seconds": place.run("find", place.mount / "tree", "-type", "f", "-size", "+0")}


def raw_find(place: Place) -> Figures:
    """List the names of the tree by one request."""
    return place.work("raw_list", "tree/")[0]


def stats(place: Place) -> Figures:
    """Ask for the attributes of every file."""
    names = [*place.site.names("flat/"), *place.site.names("tree/")][: place.sizes.stats]
    figures, _ = place.work("stat_all", place.mount, told=names)
    return {"seconds": figures["seconds"]}


# -- small files ----------------------------------------------------------------------------------


def small(at_once: int) -> Work:
    """Read all small files, so many at once."""

    def run(place: Place) -> Figures:
        figures, md5 = place.work("read_all", place.mount / "small", at_once)
        place.expect("small", md5, place.facts["small"])
        return {"seconds": figures["seconds"]}

    return run


def raw_small(at_once: int) -> Work:
    """Read all small objects, so many at once."""

    def run(place: Place) -> Figures:
        figures, md5 = place.work("raw_read_all", "small/", at_once)
        place.expect("small", md5, place.facts["small"])
        return figures

    return run


def copy_in(place: Place) -> Figures:
    """Copy small files in; wait until the store has them."""
    source = place.local / "copied"
    began = time.perf_counter()
    closed = place.run("cp", "-r", source, place.mount / "out")
    count = len(os.listdir(source))
    place.wait_for(lambda: _stored(place, "out/copied/") == count, "all copies are stored")
    figures = {"seconds": time.perf_counter() - began, "close_seconds": closed}

    def check() -> None:
        for path in source.iterdir():
            if place.site.get(f"out/copied/{path.name}") != path.read_bytes():
                raise WrongBytesError(f"out/copied/{path.name}")

    place.compare(check)
    return figures


def _stored(place: Place, prefix: str) -> int:
    return len([name for name in place.site.names(prefix) if not name.endswith("/")])


def raw_copy_in(at_once: int) -> Work:
    """Store small files, so many at once."""

    def run(place: Place) -> Figures:
        return place.work("raw_write_all", "out/copied/", place.local / "copied", at_once)[0]

    return run


def make_out(place: Place) -> None:
    """Make the directory into which files are written."""
    place.site.put_many([("out/there", b"x")])


def make(prefix: str, count: str) -> Callable[[Place], None]:
    """Return what stores so many objects below a prefix."""

    def make(place: Place) -> None:
        amount = getattr(place.sizes, count)
        place.site.put_many((f"{prefix}{number:05d}", b"x") for number in range(amount))

    return make


def remove(place: Place) -> Figures:
    """Remove a large directory; wait until the store has none of it."""
    seconds = place.run("rm", "-r", place.mount / "doomed")
    place.wait_for(lambda: _stored(place, "doomed/") == 0, "all are removed")
    return {"seconds": seconds, "ms_per_name": seconds * 1000 / place.sizes.names}


def raw_remove(place: Place) -> Figures:
    """Delete a fifth of so many objects one after the other."""
    return place.work("raw_remove_some", "doomed/", place.sizes.names // 5)[0]


def rename(place: Place) -> Figures:
    """Rename a directory; wait until the store has no old name."""
    began = time.perf_counter()
    place.run("mv", place.mount / "before", place.mount / "after")
    place.wait_for(lambda: _stored(place, "before/") == 0, "all have the new name")
    figures = {"seconds": time.perf_counter() - began}
    place.expect("after", str(_stored(place, "after/")), str(place.sizes.moved))
    return figures


def raw_rename(place: Place) -> Figures:
    """Copy and delete as many objects, eight at a time."""
    return place.work("raw_move_all", "before/", "after/", 8)[0]


# -- parts of files -------------------------------------------------------------------------------


def blocks(pattern: str) -> Work:
    """Read blocks of a large file."""

    def run(place: Place) -> Figures:
        path = place.mount / READ_KEYS[0]
        figures, md5 = place.work("read_blocks", path, place.sizes.blocks, pattern)
        expected = _local_blocks(place, pattern)
        place.expect(f"{pattern} blocks", md5, expected)
        figures.pop("cpu_s")
        return figures

    return run


def _local_blocks(place: Place, pattern: str) -> str:
    path = place.local / "0.bin"
    return place.work("read_blocks", path, place.sizes.blocks, pattern)[1]


def raw_blocks(pattern: str) -> Work:
    """Read blocks of a large object."""

    def run(place: Place) -> Figures:
        size = place.sizes.read_mib * MIB
        words = ("raw_blocks", READ_KEYS[0], place.sizes.blocks, pattern, size)
        figures, md5 = place.work(*words)
        place.expect(f"{pattern} blocks", md5, _local_blocks(place, pattern))
        return figures

    return run


def first_byte(place: Place) -> Figures:
    """Read the first byte of a large file whose name was looked up before."""
    (place.mount / READ_KEYS[0]).stat()
    figures, _ = place.work("first_byte", place.mount / READ_KEYS[0])
    return {"seconds": figures["seconds"]}


def raw_first_byte(place: Place) -> Figures:
    """Read the first byte of a large object."""
    return place.work("raw_first_byte", READ_KEYS[0])[0]


def block_bytes(place: Place) -> int:
    """Return how many bytes the blocks have."""
    return place.sizes.blocks * BLOCK


# -- programs -------------------------------------------------------------------------------------


def tar_in(place: Place) -> Figures:
    """Unpack an archive of small files; wait until they are stored."""
    began = time.perf_counter()
    place.run("tar", "-xf", place.local / "copied.tar", "-C", place.mount / "out")
    count = place.sizes.copied
    place.wait_for(lambda: _stored(place, "out/copied/") == count, "all files are stored")
    return {"seconds": time.perf_counter() - began}


def tar_out(place: Place) -> Figures:
    """Pack small files into an archive."""
    target = place.local / "out.tar"
    # tar does not read at all when it writes to /dev/null.
    seconds = place.run("tar", "-cf", target, "-C", place.mount, "small")

    def check() -> None:
        folder = place.local / "small"
        place.run("tar", "-xf", target, "-C", place.local)
        data = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
        shutil.rmtree(folder)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        place.expect("the archive", md5, place.facts["small"])

    place.compare(check)
    return {"seconds": seconds}


# 0.85 MB of the BAM file: much beside the pages that the kernel asks for.
REGION = "chr1:5000000-5250000"


def samtools(place: Place) -> Figures:
    """Count the reads of a region."""
    began = time.perf_counter()
    count = place.output("samtools", "view", "-c", place.mount / "bam/reads.bam", REGION)
    seconds = time.perf_counter() - began
    place.expect("samtools", count.strip(), place.facts["bam"])
    return {"seconds": seconds}
