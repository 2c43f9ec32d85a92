"""Python's own modules on the mount: shutil, tempfile, zipfile, mailbox, logging and others."""

from __future__ import annotations

import email.message
import errno
import fileinput
import logging
import logging.handlers
import mailbox
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import pytest
from swiftclient.client import Connection

from tests.mount.support import MIB, listed, pattern, refused, stored

from .support import contents, make_sample, stored_tree, tree


def test_shutil_copies_moves_and_removes_a_tree(
    there: Path, bucket: str, sample: Path, swift: Connection
) -> None:
    expected = tree(sample)
    shutil.copytree(sample, there / "tree", symlinks=True)
    assert tree(there / "tree") == expected
    assert stored_tree(swift, bucket, "tree/") == expected
    shutil.move(there / "tree" / "large.bin", there / "tree" / "private")
    expected["private/large.bin"] = expected.pop("large.bin")
    assert contents(tree(there / "tree")) == contents(expected)
    shutil.move(there / "tree" / "dir 1", there / "moved")
    assert tree(there / "moved") == tree(sample / "dir 1")
    assert stored_tree(swift, bucket, "moved/") == tree(sample / "dir 1")
    shutil.rmtree(there / "tree")
    assert contents(stored_tree(swift, bucket)) == contents(tree(there))
    shutil.rmtree(there / "moved")
    assert listed(swift, bucket) == {}


def test_shutil_makes_and_unpacks_an_archive(
    there: Path, bucket: str, sample: Path, swift: Connection
) -> None:
    archive = shutil.make_archive(str(there / "archive"), "zip", sample / "dir 0")
    shutil.unpack_archive(archive, there / "back")
    assert contents(tree(there / "back")) == contents(tree(sample / "dir 0"))
    assert contents(stored_tree(swift, bucket, "back/")) == contents(tree(sample / "dir 0"))


def test_temporary_files_of_every_sort(there: Path, bucket: str, swift: Connection) -> None:
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(pattern(MIB))
        file.seek(500_000)
        assert file.read(100) == pattern(MIB)[500_000:500_100]
        assert os.fstat(file.fileno()).st_size == MIB
    with tempfile.NamedTemporaryFile(dir=there) as named:
        named.write(b"content")
        named.flush()
        assert Path(named.name).read_bytes() == b"content"
    with tempfile.TemporaryDirectory(dir=there) as folder:
        Path(folder, "d").mkdir()
        Path(folder, "d", "file").write_text("content")
    fd, path = tempfile.mkstemp(dir=there)
    os.write(fd, b"kept")
    os.close(fd)
    assert Path(path).stat().st_mode & 0o777 == 0o600
    assert list(listed(swift, bucket)) == [Path(path).name]
    assert stored(swift, bucket, Path(path).name) == b"kept"


def test_zipfile_appends_to_an_archive_and_reads_members(
    there: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    path = there / "archive.zip"
    members = {f"member {number}": pattern(70_000, seed=number) for number in range(30)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in list(members)[:20]:
            archive.writestr(name, members[name])
    for name in list(members)[20:]:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, members[name])
    (tmp_path / "copy.zip").write_bytes(stored(swift, bucket, "archive.zip"))
    for each in (path, tmp_path / "copy.zip"):
        with zipfile.ZipFile(each) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == list(members)
            assert archive.read("member 17") == members["member 17"]
            with archive.open("member 25") as member:
                member.seek(60_000)
                assert member.read(10) == members["member 25"][60_000:60_010]


def message(number: int) -> email.message.EmailMessage:
    made = email.message.EmailMessage()
    made["Subject"] = f"Message {number}"
    made["From"] = "somebody@example.org"
    made.set_content(f"From here on\n{number}\n" * 50)
    return made


def test_a_mailbox_in_one_file(there: Path, bucket: str, swift: Connection, tmp_path: Path) -> None:
    box = mailbox.mbox(there / "box")
    keys = [box.add(message(number)) for number in range(20)]
    box.flush()
    box.remove(keys[3])
    box[keys[4]] = message(400)
    box.close()
    (tmp_path / "copy").write_bytes(stored(swift, bucket, "box"))
    numbers = [0, 1, 2, 400, *range(5, 20)]
    for path in (there / "box", tmp_path / "copy"):
        found = mailbox.mbox(path, create=False)
        assert [each["subject"] for each in found] == [f"Message {number}" for number in numbers]
        found.close()
    assert list(listed(swift, bucket)) == ["box"]


def test_a_mailbox_that_is_locked(there: Path, bucket: str, swift: Connection) -> None:
    box = mailbox.mbox(there / "box")
    box.lock()
    box.add(message(1))
    box.flush()
    other = mailbox.mbox(there / "box")
    with pytest.raises(mailbox.ExternalClashError):
        other.lock()
    other.close()
    box.unlock()
    box.close()
    assert list(listed(swift, bucket)) == ["box"]


def test_a_mailbox_in_a_directory(there: Path, bucket: str, swift: Connection) -> None:
    box = mailbox.Maildir(there / "box")
    keys = [box.add(message(number)) for number in range(6)]
    box.remove(keys[2])
    read = box[keys[3]]
    read.set_subdir("cur")
    read.set_flags("S")
    box[keys[3]] = read
    box.flush()
    found = mailbox.Maildir(there / "box", create=False)
    subjects = sorted(each["subject"] for each in found)
    assert subjects == [f"Message {number}" for number in (0, 1, 3, 4, 5)]
    assert found[keys[3]].get_flags() == "S"
    files = [key for key in listed(swift, bucket) if not key.endswith("/")]
    assert len([key for key in files if key.startswith("box/new/")]) == 4
    assert [key for key in files if key.startswith("box/cur/")] == [f"box/cur/{keys[3]}:2,S"]
    assert len(files) == 5


def test_a_log_that_rotates(there: Path, bucket: str, swift: Connection) -> None:
    handler = logging.handlers.RotatingFileHandler(
        there / "log", maxBytes=500, backupCount=2, encoding="utf-8"
    )
    for number in range(200):
        record = logging.LogRecord("name", logging.INFO, "", 0, "line %d", (number,), None)
        handler.emit(record)
    handler.close()
    names = ["log.2", "log.1", "log"]
    assert sorted(listed(swift, bucket)) == sorted(names)
    lines = b"".join(stored(swift, bucket, name) for name in names).decode().splitlines()
    assert lines == [f"line {number}" for number in range(200 - len(lines), 200)]
    assert len(lines) > 100


def test_fileinput_changes_files_in_place(there: Path, bucket: str, swift: Connection) -> None:
    for number in range(3):
        (there / f"file {number}").write_text(f"one {number}\ntwo\n")
    with fileinput.input(sorted(there.iterdir()), inplace=True, backup=".bak") as lines:
        for line in lines:
            print(line.replace("one", "changed"), end="")
    for number in range(3):
        assert stored(swift, bucket, f"file {number}") == f"changed {number}\ntwo\n".encode()
        assert stored(swift, bucket, f"file {number}.bak") == f"one {number}\ntwo\n".encode()


def test_pathlib_and_glob_find_names(there: Path) -> None:
    make_sample(there / "tree")
    names = os.listdir(there / "tree")
    assert {"text.txt", "link", "empty directory", "dir 0"} <= set(names)
    assert len(list((there / "tree").rglob("*.bin"))) == 13
    (there / "tree" / "text.txt").rename(there / "tree" / "renamed")
    assert (there / "tree" / "link").resolve() == there / "tree" / "dir 0" / "deep" / "file-00.bin"
    assert (there / "tree" / "dir 1" / "up").exists() is False
    with refused(errno.EEXIST):
        (there / "tree" / "private").mkdir()
    with pytest.raises(IsADirectoryError):
        (there / "tree" / "private").unlink()
