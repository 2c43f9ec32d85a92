"""What is put into the store before the tasks begin."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterable

from bench import data, lines, usage
from bench.place import Place
from bench.tasks import Task
from bench.timed import READ_KEYS, READER_KEYS, REGION


def prepare(place: Place, tasks: Iterable[Task]) -> None:
    """Put into the store, and into the local folder, what these tasks need."""
    names = {task.name for task in tasks}
    buckets = {task.bucket for task in tasks}
    place.site.make()
    if lines.FILES in buckets:
        _large_files(place, names)
    if "bam" in names:
        _bam(place)
    if lines.NAMES in buckets:
        _names(place)
    if lines.SMALL in buckets:
        _small_files(place)
    for bucket, count in zip(lines.GROWN, place.sizes.grown, strict=True):
        if bucket in buckets:
            _rows(place, bucket, count)


def _large_files(place: Place, names: set[str]) -> None:
    site, sizes, local, facts = place.site, place.sizes, place.local, place.facts
    site.bucket = lines.FILES
    for number, key in enumerate(READ_KEYS if "read4" in names else READ_KEYS[:1]):
        path = local / f"{number}.bin"
        facts[key] = data.write_noise(path, number, sizes.read_mib)
        site.put_file(key, path)
    if any(name.startswith("readers") for name in names):
        for number, key in enumerate(READER_KEYS):
            path = local / "reader.bin"
            facts[key] = data.write_noise(path, 100 + number, sizes.reader_mib)
            site.put_file(key, path)
    if "write" in names:
        facts["written.bin"] = data.write_noise(local / "written.bin", 9, sizes.written_mib)


def _bam(place: Place) -> None:
    place.site.bucket = lines.FILES
    bam, index = data.write_bam(place.local, place.sizes.alignments)
    place.site.put_file("bam/reads.bam", bam)
    place.site.put_file("bam/reads.bam.bai", index)
    command = ["samtools", "view", "-c", str(bam), REGION]
    count = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    place.facts["bam"] = count.strip()
    # What samtools reads of local copies: the header, the index, the blocks of the region.
    itself = usage.bytes_read(["samtools", "view", "--help"])
    place.facts["bam_bytes"] = str(usage.bytes_read(command) - itself)


def _names(place: Place) -> None:
    site, sizes = place.site, place.sizes
    site.bucket = lines.NAMES
    site.put_many((f"flat/{number:05d}", b"x") for number in range(sizes.names))
    inside = -(-sizes.names // sizes.folders)
    site.put_many(
        (f"tree/{folder:03d}/{number:03d}", b"x")
        for folder in range(sizes.folders)
        for number in range(inside)
    )


def _small_files(place: Place) -> None:
    site, local = place.site, place.local
    site.bucket = lines.SMALL
    small = data.small_files(place.sizes.small, 5)
    site.put_many((f"small/{name}", content) for name, content in small.items())
    joined = b"".join(small[name] for name in sorted(small))
    place.facts["small"] = hashlib.md5(joined, usedforsecurity=False).hexdigest()
    (local / "copied").mkdir()
    for name, content in data.small_files(place.sizes.copied, 6).items():
        (local / "copied" / name).write_bytes(content)
    place.run("tar", "-cf", local / "copied.tar", "-C", local, "copied")


def _rows(place: Place, bucket: str, count: int) -> None:
    """Let a bucket list objects that are not there: half a million would take hours to store."""
    cloud = place.site.cloud
    words = ["bench.rows", str(cloud.folder), bucket, str(count)]
    subprocess.run([sys.executable, "-m", *words], check=True)
