"""What nobody else may see or do: folders, secrets, and names that are anybody's."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from tests.conftest import MakeMount

from .support import Served, clean_environ, refused, run, succeed

pytestmark = [pytest.mark.swift, pytest.mark.mount]

PROGRAM = (sys.executable, "-m", "allasfs")
FORGED = "\x1b[2J\r\n2026-01-01 00:00:00,000 ERROR allasfs: forged \u202e"


def command(served: Served, *words: str | Path) -> str:
    return succeed(*PROGRAM, *words, env=clean_environ(served.folder))


@pytest.mark.semantics("S1")
def test_what_the_mount_keeps_is_private_whatever_the_umask(mount: MakeMount, bucket: str) -> None:
    before = os.umask(0)
    try:
        served = mount(log_file="log-of-the-mount")
    finally:
        os.umask(before)
    with (served.path / bucket / "file").open("wb", buffering=0) as file:
        file.write(b"content")
        state = served.folder / ".local/state/allasfs"
        cache = served.folder / ".cache/allasfs"
        (spool,) = (state / "spool").iterdir()
        runtime = served.folder / "allasfs"
        folders = [state, spool, cache, runtime]
        files = [path for folder in (spool, cache, runtime) for path in folder.iterdir()]
        files.append(served.folder / "log-of-the-mount")
        assert any(path.suffix == ".data" for path in files)
        for folder in folders:
            assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0, folder
        for path in files:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.semantics("S2")
def test_no_secret_is_where_others_look(
    mount: MakeMount, cloud: Cloud, bucket: str, swift: Connection
) -> None:
    served = mount(log_level="debug")
    path = served.path / bucket / "file"
    path.write_bytes(b"content")
    assert path.read_bytes() == b"content"
    with refused(2):
        (served.path / bucket / "lacking").stat()
    # A token that is refused is what an error would quote.
    pid = served.process.pid
    said = {
        "log": served.log(),
        "status": command(served, "status", served.path),
        "status in JSON": command(served, "status", "--json", served.path),
        "command line": Path(f"/proc/{pid}/cmdline").read_text(),
        "name of the process": Path(f"/proc/{pid}/comm").read_text(),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "attributes": repr(
            [os.getxattr(path, f"user.allasfs.{name}") for name in ("etag", "content_type", "url")]
        ),
        "spool and database": "".join(
            each.read_bytes().decode("latin-1")
            for folder in (".local", ".cache")
            for each in (served.folder / folder).rglob("*")
            if each.is_file()
        ),
    }
    assert "DEBUG" in said["log"]
    for where, text in said.items():
        assert cloud.credentials.password not in text, where
        assert not re.search(r"gAAAAA[\w-]{20}", text), where
    # Others may not look into the process, and it leaves no core.
    assert Path(f"/proc/{pid}/environ").stat().st_uid == 0
    assert re.search(r"^Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text(), re.M)


@pytest.mark.semantics("S3")
def test_a_name_that_is_no_line_forges_none(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    served = mount(log_level="debug")
    served.allow("")
    top = served.path / bucket
    (top / FORGED).write_bytes(b"x")
    assert os.listdir(top) == [FORGED]
    with refused(2):
        (top / f"{FORGED}2").stat()
    swift.delete_object(bucket, FORGED)
    swift.delete_container(bucket)
    with refused(2, 5), (top / FORGED).open("wb", buffering=0) as file:
        file.write(b"y")
    shown = command(served, "status", served.path)
    assert "forged" in shown
    assert all(c.isprintable() for c in shown.replace("\n", ""))
    done = run(*PROGRAM, "umount", served.path, env=clean_environ(served.folder))
    assert done.returncode == 15
    assert "forged" in done.stderr
    assert all(c.isprintable() for c in done.stderr.replace("\n", ""))
    text = served.log()
    assert text.count("forged") > 2
    assert all(c.isprintable() for c in text.replace("\n", ""))
    assert not any(line.startswith("2026-01-01 00:00:00") for line in text.splitlines())
