"""What is in the store before the tasks begin; the same bytes each time."""

from __future__ import annotations

import hashlib
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
BASES = "ACGT"


@dataclass(frozen=True)
class Sizes:
    """How much there is; the full amounts are those that the bars are for."""

    read_mib: int = 1024
    written_mib: int = 512
    names: int = 5000
    folders: int = 200
    stats: int = 10_000
    small: int = 500
    copied: int = 200
    moved: int = 1000
    blocks: int = 200
    alignments: int = 400_000
    reader_mib: int = 64
    listed: int = 10_000

    @property
    def grown(self) -> tuple[int, int, int]:
        """Return how many names the listings have whose growth is looked at."""
        return self.listed, 10 * self.listed, 50 * self.listed

    def scaled(self, factor: float) -> Sizes:
        """Return smaller amounts, to try the benchmark itself."""
        return Sizes(**{name: max(8, round(n * factor)) for name, n in vars(self).items()})


def noise(seed: int, size: int) -> bytes:
    """Return bytes that no compression makes smaller."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - not a secret


def write_noise(path: Path, seed: int, mib: int) -> str:
    """Write a file of noise; return its MD5."""
    checksum = hashlib.md5(usedforsecurity=False)
    with path.open("wb") as file:
        for number in range(mib):
            block = noise(seed * 1_000_003 + number, MIB)
            checksum.update(block)
            file.write(block)
    return checksum.hexdigest()


def small_files(count: int, seed: int) -> dict[str, bytes]:
    """Return names and contents of small files, 1 to 32 KiB."""
    draw = random.Random(seed)  # noqa: S311 - not a secret
    return {
        f"{number:05d}.dat": draw.randbytes(draw.randrange(1024, 32 * 1024))
        for number in range(count)
    }


def write_bam(folder: Path, alignments: int) -> tuple[Path, Path]:
    """Make a BAM file of random reads in order, and its index, with samtools."""
    draw = random.Random(7)  # noqa: S311 - not a secret
    length = 10_000_000
    bam = folder / "reads.bam"
    places = sorted(draw.randrange(1, length - 200) for _ in range(alignments))
    with subprocess.Popen(
        ["samtools", "view", "-b", "-o", str(bam), "-"], stdin=subprocess.PIPE, text=True
    ) as samtools:
        pipe = samtools.stdin
        if pipe is None:
            raise RuntimeError("samtools has no input")
        pipe.write(f"@HD\tVN:1.6\tSO:coordinate\n@SQ\tSN:chr1\tLN:{length}\n")
        for number, place in enumerate(places):
            bases = "".join(draw.choices(BASES, k=100))
            quality = "".join(draw.choices("FGHIJ:", k=100))
            pipe.write(f"r{number}\t0\tchr1\t{place}\t60\t100M\t*\t0\t0\t{bases}\t{quality}\n")
    subprocess.run(["samtools", "index", str(bam)], check=True)
    return bam, bam.with_suffix(".bam.bai")
