"""Archives and compression: tar, zip, gzip, xz and flac; those that seek, too."""

from __future__ import annotations

import math
import struct
import wave
from pathlib import Path

import pytest
from swiftclient.client import Connection

from tests.mount.support import MIB, listed, md5, pattern, stored

from .support import Shell, contents, in_seconds, stored_tree, tree


def test_tar_packs_a_tree_of_the_mount(
    sh: Shell, there: Path, sample: Path, tmp_path: Path
) -> None:
    sh('cp -a "$1" tree', sample)
    sh('tar -cf - tree | tar -xf - -C "$1"', tmp_path)
    assert in_seconds(tree(tmp_path / "tree")) == in_seconds(tree(sample))
    # And finds no difference between what it packed and what is there.
    sh('tar --format=posix -cf "$1" -C "$2" .; tar -df "$1" -C tree', tmp_path / "t.tar", sample)
    (there / "tree" / "text.txt").write_text("changed")
    assert sh.run('tar -df "$1" -C tree', tmp_path / "t.tar").returncode == 1


def test_tar_extracts_to_the_mount(
    sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection, tmp_path: Path
) -> None:
    sh('tar --format=posix -czf "$1" -C "$2" .', tmp_path / "t.tgz", sample)
    sh('mkdir tree; tar -xpzf "$1" -C tree', tmp_path / "t.tgz")
    assert tree(there / "tree") == tree(sample)
    assert stored_tree(swift, bucket, "tree/") == tree(sample)
    sh('tar -dzf "$1" -C tree', tmp_path / "t.tgz")


def test_tar_extracts_to_a_bucket(
    sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection, tmp_path: Path
) -> None:
    sh('tar --format=posix -cf "$1" -C "$2" .; tar -xpf "$1"', tmp_path / "t.tar", sample)
    assert tree(there) == tree(sample)
    assert stored_tree(swift, bucket) == tree(sample)
    sh('tar -df "$1"', tmp_path / "t.tar")


def test_tar_appends_to_an_archive_on_the_mount(
    sh: Shell, bucket: str, sample: Path, swift: Connection, tmp_path: Path
) -> None:
    sh('tar -cf t.tar -C "$1" text.txt; tar -rf t.tar -C "$1" "dir 0"', sample)
    sh('tar --delete -f t.tar text.txt; tar -rf t.tar -C "$1" secret', sample)
    (tmp_path / "t.tar").write_bytes(stored(swift, bucket, "t.tar"))
    sh('tar -xf "$1" -C "$2"; rm "$1"', tmp_path / "t.tar", tmp_path / "home")
    expected = contents(tree(sample / "dir 0"))
    assert contents(tree(tmp_path / "home" / "dir 0")) == expected
    assert (tmp_path / "home" / "secret").read_text() == "secret"
    assert not (tmp_path / "home" / "text.txt").exists()


def test_zip_makes_and_changes_an_archive(
    sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection, tmp_path: Path
) -> None:
    sh('cp -a "$1" tree; cd tree; zip -qry ../archive.zip .', sample)
    assert sh("unzip -l archive.zip | grep -c 'bin$'") == "13\n"
    sh("unzip -tq archive.zip")
    sh("cd tree; echo changed >text.txt; zip -qu ../archive.zip text.txt; cd ..")
    sh("zip -qd archive.zip large.bin")
    (tmp_path / "archive.zip").write_bytes(stored(swift, bucket, "archive.zip"))
    sh('unzip -q "$1" -d "$2"', tmp_path / "archive.zip", tmp_path / "back")
    expected = contents(tree(sample))
    del expected["large.bin"]
    expected["text.txt"] = md5(b"changed\n")
    assert contents(tree(tmp_path / "back")) == expected
    assert (tmp_path / "back" / "broken").readlink() == Path("nowhere/at all")


def test_unzip_extracts_to_the_mount(
    sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection, tmp_path: Path
) -> None:
    sh('cd "$1"; zip -qry "$2" .', sample, tmp_path / "archive.zip")
    # Its time is of two seconds.
    swift.put_object(bucket, "archive.zip", (tmp_path / "archive.zip").read_bytes())
    sh("unzip -q archive.zip -d tree; rm archive.zip")
    assert contents(tree(there / "tree")) == contents(tree(sample))
    assert contents(stored_tree(swift, bucket, "tree/")) == contents(tree(sample))
    # One member out of many: read from the end, then from the middle.
    sh('cp "$1" .; [ "$(unzip -p archive.zip large.bin | md5sum)" = "$(md5sum <"$2")" ]',
       tmp_path / "archive.zip", sample / "large.bin")  # fmt: skip


@pytest.mark.parametrize("program", ["gzip", "bzip2", "xz"])
def test_a_file_is_compressed_and_expanded_in_place(
    sh: Shell, there: Path, bucket: str, swift: Connection, program: str, tmp_path: Path
) -> None:
    data = pattern(MIB) + bytes(MIB)
    (there / "file").write_bytes(data)
    sh("touch -d @1000000000 file; chmod 640 file")
    suffix = {"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz"}[program]
    sh(f"{program} file")
    assert list(listed(swift, bucket)) == [f"file{suffix}"]
    (tmp_path / f"copy{suffix}").write_bytes(stored(swift, bucket, f"file{suffix}"))
    assert sh(f'{program} -dc "$1" | md5sum', tmp_path / f"copy{suffix}").split()[0] == md5(data)
    sh(f"{program} -t file{suffix}; {program} -d file{suffix}")
    assert stored(swift, bucket, "file") == data
    assert list(listed(swift, bucket)) == ["file"]
    assert sh("stat -c '%a %Y' file") == "640 1000000000\n"


def tone(path: Path, seconds: int) -> bytes:
    """Write a WAV file of two tones; return its samples."""
    rate = 22_050
    samples = b"".join(
        struct.pack("<hh", int(9000 * math.sin(n / 11)), int(7000 * math.sin(n * n / 1e7)))
        for n in range(rate * seconds)
    )
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, rate, len(samples) // 4, "NONE", ""))
        file.writeframes(samples)
    return samples


def test_a_media_file_is_written_with_seeks_and_read_from_the_middle(
    sh: Shell, there: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    samples = tone(there / "tone.wav", 20)
    # Its header gets lengths and checksum of what came after it.
    sh("flac --silent --verify -o tone.flac tone.wav")
    assert sh("metaflac --show-total-samples --show-md5sum tone.flac").split() == [
        str(len(samples) // 4),
        md5(samples),
    ]
    sh("flac --silent --test tone.flac")
    raw = '-d --silent --force-raw-format --endian=little --sign=signed -o "$1"'
    sh(f"flac {raw} --skip=300000 --until=310000 tone.flac", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == samples[4 * 300_000 : 4 * 310_000]
    (tmp_path / "copy").write_bytes(stored(swift, bucket, "tone.flac"))
    sh(f'flac {raw} "$2"', tmp_path / "whole", tmp_path / "copy")
    assert (tmp_path / "whole").read_bytes() == samples
    # Tags are put between the header and the sound.
    sh("metaflac --set-tag=TITLE=Tones tone.flac; flac --silent --test tone.flac")
    (tmp_path / "copy").write_bytes(stored(swift, bucket, "tone.flac"))
    assert sh('metaflac --show-tag=TITLE "$1"', tmp_path / "copy") == "TITLE=Tones\n"
    with wave.open(str(there / "tone.wav"), "rb") as file:
        file.setpos(400_000)
        assert file.readframes(500) == samples[4 * 400_000 : 4 * 400_500]
