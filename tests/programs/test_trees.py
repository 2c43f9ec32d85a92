"""Programs that work on whole trees: cp, rsync, mv, rm, find, du, diff."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from swiftclient.client import Connection

from tests.conftest import MakeMount
from tests.mount.support import listed, pattern, refused, stored

from .support import Shell, contents, stored_tree, tree

MARKERS = {
    "slash": ("d/", "application/directory"),
    "directory": ("d", "application/directory"),
    "x-directory": ("d", "application/x-directory"),
}


def test_cp_a_keeps_modes_times_and_links(
    sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection, tmp_path: Path
) -> None:
    expected = tree(sample)
    assert len(expected) >= 30
    sh('cp -a "$1" copy', sample)
    assert tree(there / "copy") == expected
    assert stored_tree(swift, bucket, "copy/") == expected
    sh('cp -a copy "$1"', tmp_path / "back")
    assert tree(tmp_path / "back") == expected
    sh('diff -r --no-dereference "$1" copy', sample)


def test_cp_within_the_mount(
    sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection
) -> None:
    sh('cp -a "$1/dir 1" one; cp -a one two; cp -r two three; rm -r one', sample)
    assert tree(there / "two") == tree(sample / "dir 1")
    assert stored_tree(swift, bucket, "two/") == tree(sample / "dir 1")
    assert contents(tree(there / "three")) == contents(tree(sample / "dir 1"))
    assert not [key for key in listed(swift, bucket) if key.startswith("one")]


def test_cp_a_into_a_bucket_gives_it_mode_and_time(
    sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection
) -> None:
    sample.chmod(0o750)
    sh('cp -a "$1/." .', sample)
    assert tree(there) == tree(sample)
    assert there.stat().st_mtime_ns == sample.stat().st_mtime_ns
    assert there.stat().st_mode == sample.stat().st_mode
    assert stored_tree(swift, bucket) == tree(sample)


# -- rsync ----------------------------------------------------------------------------------------

RSYNC = 'rsync -a --stats --itemize-changes "$@"'


def transferred(printed: str) -> tuple[int, list[str]]:
    """Return how many files rsync transferred, and what it changed."""
    number = re.search(r"^Number of regular files transferred: ([\d,]+)$", printed, re.M)
    assert number, printed
    changes = re.findall(r"^[<>ch.*][fdLDS*]\S* .*$|^\*deleting .*$", printed, re.M)
    return int(number[1].replace(",", "")), changes


def test_rsync_into_a_directory_transfers_nothing_the_second_time(
    sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection
) -> None:
    (there / "d").mkdir()
    count, changes = transferred(sh(RSYNC, f"{sample}/", there / "d"))
    assert count == len(contents(tree(sample)))
    assert changes
    assert transferred(sh(RSYNC, f"{sample}/", there / "d")) == (0, [])
    assert tree(there / "d") == tree(sample)
    assert stored_tree(swift, bucket, "d/") == tree(sample)


def test_rsync_into_a_bucket_transfers_nothing_the_second_time(
    sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection
) -> None:
    count, _ = transferred(sh(RSYNC, f"{sample}/", there))
    assert count == len(contents(tree(sample)))
    assert transferred(sh(RSYNC, f"{sample}/", there)) == (0, [])
    assert tree(there) == tree(sample)
    assert there.stat().st_mtime_ns == sample.stat().st_mtime_ns
    assert stored_tree(swift, bucket) == tree(sample)


@pytest.mark.semantics("A5", "A8")
def test_rsync_transfers_nothing_after_a_remount(
    mount: MakeMount, bucket: str, sample: Path, sh: Shell
) -> None:
    served = mount()
    target = served.path / bucket
    assert transferred(sh(RSYNC, sample, target))[0] == len(contents(tree(sample)))
    served.stop()
    served.start()
    assert transferred(sh(RSYNC, sample, target)) == (0, [])
    assert tree(target / "sample") == tree(sample)


def test_rsync_transfers_what_changed_and_nothing_else(
    sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection
) -> None:
    sh(RSYNC, sample, there)
    (sample / "text.txt").write_text("changed")
    (sample / "new").write_text("new")
    count, changes = transferred(sh(RSYNC, sample, there))
    assert count == 2
    assert {line.split(None, 1)[1] for line in changes} == {
        "sample/",
        "sample/new",
        "sample/text.txt",
    }
    assert stored_tree(swift, bucket, "sample/") == tree(sample)


def test_rsync_delete_removes_what_the_source_lacks(
    sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection
) -> None:
    sh(RSYNC, sample, there)
    sh('cd "$1" && rm -r "dir 1" "dir 2/deep" text.txt broken && touch -d @1 .', sample)
    (there / "sample" / "extra").mkdir()
    (there / "sample" / "extra" / "file").write_text("extra")
    count, changes = transferred(sh('rsync -a --delete --stats -i "$@"', sample, there))
    assert count == 0
    assert "*deleting   sample/extra/file" in changes
    assert tree(there / "sample") == tree(sample)
    assert stored_tree(swift, bucket, "sample/") == tree(sample)


def test_rsync_inplace_and_append_change_the_file_itself(
    sh: Shell, there: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    source = tmp_path / "file"

    def write(data: bytes | bytearray, second: int) -> None:
        # Sizes and whole seconds are all that rsync looks at.
        source.write_bytes(data)
        os.utime(source, (second, second))

    data = bytearray(pattern(2_000_000))
    write(data, 1)
    sh('rsync -a --inplace "$1" .', source)
    data[1_000_000:1_000_005] = b"fresh"
    write(data, 2)
    # Blocks that are the same are not sent again.
    printed = sh('rsync -a --inplace --no-whole-file --stats "$1" .', source)
    literal = re.search(r"^Literal data: ([\d,]+) bytes$", printed, re.M)
    assert literal
    assert 5 <= int(literal[1].replace(",", "")) < 100_000
    assert stored(swift, bucket, "file") == data
    data += b"appended" * 5000
    write(data, 3)
    printed = sh('rsync -a --append --stats "$1" .', source)
    assert re.search(r"^Literal data: 40,000 bytes$", printed, re.M), printed
    assert stored(swift, bucket, "file") == data
    assert (there / "file").read_bytes() == data
    assert list(listed(swift, bucket)) == ["file"]


def test_rsync_out_of_the_mount(sh: Shell, there: Path, sample: Path, tmp_path: Path) -> None:
    sh('cp -a "$1" tree', sample)
    sh(RSYNC, "tree/", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(sample)
    assert transferred(sh(RSYNC, "tree/", tmp_path / "back")) == (0, [])


# -- names ----------------------------------------------------------------------------------------


def test_mv_moves_files_and_directories(
    sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection
) -> None:
    expected = tree(sample)
    sh('cp -a "$1" tree; mv tree moved; mv moved/text.txt moved/renamed.txt', sample)
    expected["renamed.txt"] = expected.pop("text.txt")
    assert tree(there / "moved") == expected
    assert stored_tree(swift, bucket, "moved/") == expected
    assert not [key for key in listed(swift, bucket) if not key.startswith("moved/")]


def test_mv_to_another_bucket(
    sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection
) -> None:
    sh('mkdir "../$1-2"; cp -a "$2" tree', bucket, sample)
    sh('mv tree/large.bin "../$1-2/"; mv tree "../$1-2/"', bucket)
    assert listed(swift, bucket) == {}
    assert stored(swift, f"{bucket}-2", "large.bin") == (sample / "large.bin").read_bytes()
    expected = tree(sample)
    del expected["large.bin"]
    assert stored_tree(swift, f"{bucket}-2", "tree/") == expected
    assert tree(there.parent / f"{bucket}-2" / "tree") == expected


@pytest.mark.semantics("N4", "C24")
@pytest.mark.parametrize("marker", MARKERS)
def test_rm_rf_of_directories_that_another_client_made(
    sh: Shell, there: Path, bucket: str, swift: Connection, marker: str
) -> None:
    name, content_type = MARKERS[marker]
    swift.put_object(bucket, name, b"", content_type=content_type)
    swift.put_object(bucket, name.replace("d", "d/sub"), b"", content_type=content_type)
    swift.put_object(bucket, "d/implicit/deep/file", b"content")
    swift.put_object(bucket, "d/file", b"content")
    swift.put_object(bucket, "kept", b"content")
    assert sorted(os.listdir(there / "d")) == ["file", "implicit", "sub"]
    sh("rm -rf d")
    assert os.listdir(there) == ["kept"]
    assert list(listed(swift, bucket)) == ["kept"]


def test_find_delete(sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection) -> None:
    sh('cp -a "$1" tree', sample)
    sh("find tree -name '*.bin' -delete; find tree -type d -empty -delete")
    names = sorted(path.name for path in (there / "tree").rglob("*"))
    assert names == sorted(
        [
            *("text.txt", "script.sh", "secret", "read-only"),
            *("link", "dir 1", "up", "link to directory", "broken"),
        ]
    )
    assert not [key for key in listed(swift, bucket) if key.endswith(".bin")]


def test_find_delete_in_directories_with_and_without_marker(
    sh: Shell, bucket: str, swift: Connection
) -> None:
    for marker in ("tree/", "tree/explicit/"):
        swift.put_object(bucket, marker, b"", content_type="application/directory")
    files = ("explicit/a.bin", "implicit/deep/b.bin", "implicit/deep/kept", "gone/deep/c.bin")
    for name in files:
        swift.put_object(bucket, f"tree/{name}", b"content")
    sh("find tree -name '*.bin' -delete")
    # A directory that was emptied stays.
    assert sh("find tree -type d -empty | sort") == "tree/explicit\ntree/gone/deep\n"
    sh("find tree -mindepth 1 -type d -empty -delete")
    assert sh("find tree | sort").split() == [
        *("tree", "tree/implicit", "tree/implicit/deep", "tree/implicit/deep/kept")
    ]
    assert sorted(listed(swift, bucket)) == ["tree/", "tree/implicit/deep/kept"]
    sh("find tree -delete")
    assert sh("ls -A") == ""
    assert listed(swift, bucket) == {}


def test_find_newer_and_by_time(sh: Shell, sample: Path) -> None:
    expected = sh("find . -newer text.txt | sort", folder=sample)
    by_date = sh("find . -newermt '2001-02-03 04:20' | sort", folder=sample)
    assert expected
    assert by_date
    sh('cp -a "$1" tree', sample)
    assert sh("cd tree; find . -newer text.txt | sort") == expected
    assert sh("cd tree; find . -newermt '2001-02-03 04:20' | sort") == by_date


def test_mkdir_p_and_rmdir_p(sh: Shell, there: Path, bucket: str, swift: Connection) -> None:
    sh("mkdir -p a/b/c/d a/b/e; mkdir -p a/b/c/d")
    assert sorted(listed(swift, bucket)) == ["a/", "a/b/", "a/b/c/", "a/b/c/d/", "a/b/e/"]
    sh("rmdir a/b/e; rmdir -p a/b/c/d")
    assert os.listdir(there) == []
    assert listed(swift, bucket) == {}
    with refused(errno.ENOENT):
        os.rmdir(there / "a")


def test_mkdir_p_in_directories_without_marker(sh: Shell, bucket: str, swift: Connection) -> None:
    swift.put_object(bucket, "a/b/file", b"content")
    sh("mkdir -p a/b; mkdir -p a/b/c/d")
    assert sorted(listed(swift, bucket)) == ["a/b/c/", "a/b/c/d/", "a/b/file"]
    assert sh.run("mkdir -p a/b/file/c").returncode == 1
    assert sh("find a | sort").split() == ["a", "a/b", "a/b/c", "a/b/c/d", "a/b/file"]
    sh("rm -rf a")
    assert listed(swift, bucket) == {}


def test_du_counts_what_is_there(sh: Shell, sample: Path) -> None:
    sh('cp -a "$1" tree', sample)
    files = [path for path in sample.rglob("*") if path.is_file() and not path.is_symlink()]
    total = sum(path.stat().st_size for path in files)
    printed = sh("find tree -type f -print0 | du -bc --files0-from=- | tail -n 1")
    assert int(printed.split()[0]) == total
    blocks = sh("find tree -type f -print0 | du -kc --files0-from=- | tail -n 1")
    assert total <= int(blocks.split()[0]) * 1024 < total + len(files) * 1024
    # By directories, which have no size; a link is as long as its target.
    links = sum(path.lstat().st_size for path in sample.rglob("*") if path.is_symlink())
    assert int(sh("du -sb tree").split()[0]) == total + links
    below = sum(path.stat().st_size for path in files if path.is_relative_to(sample / "dir 1"))
    below += (sample / "dir 1" / "up").lstat().st_size
    assert f"{below}\ttree/dir 1\n" in sh("du -b tree")


@pytest.mark.semantics("C32")
def test_df_shows_the_usage_of_the_account(
    mount: MakeMount, bucket: str, swift: Connection, sh: Shell
) -> None:
    swift.put_object(bucket, "file", bytes(5_000_000))
    path = mount(ttl=0).path
    line = sh('df -B1 --output=fstype,size,used,avail "$1"', path).splitlines()[1]
    kind, size, used, free = line.split()
    assert kind == "fuse.allasfs"
    assert int(used) >= 5_000_000
    assert int(size) == int(used) + int(free)


def test_diff_r_and_md5sum_find_a_difference(sh: Shell, there: Path, sample: Path) -> None:
    sh('cd "$1"; find . -type f -exec md5sum {} + >"$2"', sample, sample.parent / "sums")
    sh('cp -a "$1" tree', sample)
    sh('cd tree; md5sum --quiet -c "$1"', sample.parent / "sums")
    assert sh('diff -r --no-dereference "$1" tree', sample) == ""
    (there / "tree" / "text.txt").write_text("changed")
    assert sh.run('cd tree; md5sum --quiet -c "$1"', sample.parent / "sums").returncode == 1
    assert sh.run('diff -rq --no-dereference "$1" tree', sample).returncode == 1
