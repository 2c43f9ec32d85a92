"""Formats of science, which are read and changed at random places: BAM, HDF5, NumPy arrays."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from swiftclient.client import Connection

from tests.mount.support import PATIENCE_S, listed, pattern, stored, wait_until

from .support import Shell

CHROMOSOMES = {"chr1": 400_000, "chr2": 150_000}
READS = 20_000
READ_LENGTH = 100


def write_sam(path: Path) -> list[tuple[str, int]]:
    """Write reads in random order; return where they are, from 1."""
    numbers = random.Random(1)
    places = []
    with path.open("w") as file:
        file.write("@HD\tVN:1.6\tSO:unsorted\n")
        file.writelines(f"@SQ\tSN:{name}\tLN:{size}\n" for name, size in CHROMOSOMES.items())
        for number in range(READS):
            name = numbers.choices(list(CHROMOSOMES), weights=list(CHROMOSOMES.values()))[0]
            start = numbers.randint(1, CHROMOSOMES[name] - READ_LENGTH)
            places.append((name, start))
            bases = "".join(numbers.choices("ACGT", k=READ_LENGTH))
            qualities = "".join(numbers.choices("ADFIJ", k=READ_LENGTH))
            fields = (f"read-{number}", 0, name, start, 60, f"{READ_LENGTH}M", "*", 0, 0)
            file.write("\t".join(map(str, (*fields, bases, qualities))) + "\n")
    return places


def test_samtools_sorts_indexes_and_views_regions(
    sh: Shell, there: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    places = write_sam(there / "reads.sam")
    # Several temporary files, which are merged.
    sh("mkdir tmp; samtools sort -m 2M -T tmp/part -o sorted.bam reads.sam 2>log; rmdir tmp")
    assert sh("cat log").startswith("[bam_sort_core] merging from ")
    sh("samtools index sorted.bam; samtools quickcheck sorted.bam")

    def covering(name: str, first: int, last: int) -> int:
        return sum(
            where == name and start <= last and start + READ_LENGTH > first
            for where, start in places
        )

    for name, first, last in (
        ("chr1", 1, 400_000),
        ("chr1", 123_456, 123_556),
        ("chr2", 100_000, 110_000),
        ("chr2", 149_950, 150_000),
    ):
        counted = sh(f"samtools view -c sorted.bam {name}:{first}-{last}")
        assert int(counted) == covering(name, first, last) > 0
    lines = sh("samtools view sorted.bam").splitlines()
    found = [(words[2], int(words[3])) for words in map(str.split, lines)]
    assert found == sorted(places)
    # As other clients have it, with its index.
    for name in ("sorted.bam", "sorted.bam.bai"):
        (tmp_path / name).write_bytes(stored(swift, bucket, name))
    local = sh('samtools view "$1/sorted.bam" chr2:50000-60000 | md5sum', tmp_path)
    assert sh("samtools view sorted.bam chr2:50000-60000 | md5sum") == local
    assert sorted(listed(swift, bucket)) == ["log", "reads.sam", "sorted.bam", "sorted.bam.bai"]


MAKE_HDF5 = """
import sys, h5py, numpy
with h5py.File(sys.argv[1], "w") as file:
    data = file.create_dataset(
        "group/data", (0, 64), maxshape=(None, 64), chunks=(100, 64), dtype="i8",
        compression="gzip")
    data.attrs["unit"] = "K"
    file["table"] = numpy.arange(1_000_000, dtype="f8").reshape(1000, 1000)
"""
APPEND_HDF5 = """
import sys, h5py, numpy
with h5py.File(sys.argv[1], "a") as file:
    data = file["group/data"]
    old = len(data)
    data.resize(old + 1500, axis=0)
    data[old:] = numpy.arange(old * 64, (old + 1500) * 64).reshape(-1, 64)
    file["table"][500, 10:20] = -1
    file.flush()
    data.attrs["appended"] = old
"""
READ_HDF5 = """
import sys, h5py
with h5py.File(sys.argv[1], "r") as file:
    data, table = file["group/data"], file["table"]
    print(data.shape, data.attrs["unit"], data.attrs["appended"])
    print(data[2999, 63], data[1234:1237, 5].tolist(), int(data[:].sum()))
    print(table[999, 990:993].tolist(), table[500, 8:12].tolist(), float(table[::100, 0].sum()))
"""


def test_hdf5_is_made_appended_to_and_read_in_slices(
    sh: Shell, there: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    sh.python(MAKE_HDF5, there / "data.h5")
    sh.python(APPEND_HDF5, there / "data.h5")
    sh.python(APPEND_HDF5, there / "data.h5")
    end = 3000 * 64
    expected = (
        "(3000, 64) K 1500\n"
        f"{end - 1} {[n * 64 + 5 for n in (1234, 1235, 1236)]} {end * (end - 1) // 2}\n"
        f"[999990.0, 999991.0, 999992.0] [500008.0, 500009.0, -1.0, -1.0] 4500000.0\n"
    )
    assert sh.python(READ_HDF5, there / "data.h5") == expected
    (tmp_path / "copy.h5").write_bytes(stored(swift, bucket, "data.h5"))
    assert sh.python(READ_HDF5, tmp_path / "copy.h5") == expected


def test_hdf5_locks_its_file(sh: Shell, there: Path) -> None:
    script = (
        "import sys, h5py; file = h5py.File(sys.argv[1], sys.argv[2]); print(file.mode, flush=True)"
    )
    path = there / "data.h5"
    with subprocess.Popen(
        [sys.executable, "-c", f"{script}; sys.stdin.read(); file.close()", path, "w"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "r+\n"
        second = sh.run('"$1" -c "$2" "$3" a', sys.executable, script, path)
        assert second.returncode != 0
        assert "unable to lock file" in second.stderr
        writer.communicate(timeout=PATIENCE_S)
    assert sh.python(script, path, "a") == "r+\n"


MEMMAP = """
import sys, numpy
path, step = sys.argv[1:]
if step == "make":
    array = numpy.memmap(path, dtype="i4", mode="w+", shape=(1000, 1000))
    array[:] = numpy.arange(1_000_000, dtype="i4").reshape(1000, 1000)
    array.flush()
elif step == "change":
    array = numpy.memmap(path, dtype="i4", mode="r+", shape=(1000, 1000))
    array[123, 100:200] = -7
    array[999, 999] += 1
    array.flush()
array = numpy.memmap(path, dtype="i4", mode="r", shape=(1000, 1000))
print(int(array.sum()), int(array[500, 500]), array[123, 198:202].tolist(), int(array[999, 999]))
"""


def test_numpy_maps_a_file_for_reading_and_writing(
    sh: Shell, there: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    total = 999_999 * 500_000
    made = f"{total} 500500 [123198, 123199, 123200, 123201] 999999\n"
    assert sh.python(MEMMAP, there / "array", "make") == made
    assert sh.python(MEMMAP, there / "array", "look") == made
    total -= sum(range(123_100, 123_200)) + 7 * 100 - 1
    changed = f"{total} 500500 [-7, -7, 123200, 123201] 1000000\n"
    assert sh.python(MEMMAP, there / "array", "change") == changed
    assert sh.python(MEMMAP, there / "array", "look") == changed
    (tmp_path / "copy").write_bytes(stored(swift, bucket, "array"))
    assert sh.python(MEMMAP, tmp_path / "copy", "look") == changed


AFTER_CLOSE = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
view = mmap.mmap(fd, 0)
os.close(fd)
view[5000:5007] = b"changed"
view.close()
"""


def test_a_map_that_outlives_its_descriptor_is_stored(
    sh: Shell, there: Path, bucket: str, swift: Connection
) -> None:
    data = bytearray(pattern(300_000))
    (there / "file").write_bytes(data)
    sh.python(AFTER_CLOSE, there / "file")
    data[5000:5007] = b"changed"
    assert (there / "file").read_bytes() == data
    wait_until(lambda: stored(swift, bucket, "file") == data, "the change is stored")


ARRAYS = """
import sys, numpy
path, step = sys.argv[1:]
if step == "make":
    numpy.savez(path, a=numpy.arange(300_000), b=numpy.eye(300))
    numpy.save(path + ".npy", numpy.arange(300_000.0))
with numpy.load(path) as archive:
    single = numpy.load(path + ".npy", mmap_mode="r")
    print(sorted(archive), int(archive["a"].sum()), archive["b"].trace(), single[-2:].tolist())
"""


def test_numpy_saves_and_loads_arrays(
    sh: Shell, there: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    expected = f"['a', 'b'] {299_999 * 150_000} 300.0 [299998.0, 299999.0]\n"
    assert sh.python(ARRAYS, there / "arrays.npz", "make") == expected
    for key in listed(swift, bucket):
        (tmp_path / key).write_bytes(stored(swift, bucket, key))
    assert sh.python(ARRAYS, tmp_path / "arrays.npz", "look") == expected
