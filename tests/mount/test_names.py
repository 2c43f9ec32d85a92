"""Names that the store and POSIX see differently, and where they move, on a real mount."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from swiftclient.client import Connection
from swiftclient.exceptions import ClientException

from allasfs.demo import Cloud
from tests.conftest import MakeMount

from .support import MIB, PATIENCE_S, listed, pattern, refused, stored, succeed, wait_until
from .test_requests import fill

QUOTA = "X-Container-Meta-Quota-Bytes"


# -- names of objects -----------------------------------------------------------------------------


@pytest.mark.semantics("N6")
def test_an_object_beside_a_directory_of_its_name_is_used_by_another_one(
    project: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    swift.put_object(bucket, "a", b"beside")
    swift.put_object(bucket, "a/b", b"below")
    top = project / bucket
    succeed("cp", "-r", top, tmp_path / "copy")
    assert (tmp_path / "copy/a/b").read_bytes() == b"below"
    assert (tmp_path / "copy/a~object").read_bytes() == b"beside"
    assert sorted(os.listdir(top)) == ["a", "a~object"]
    (top / "a~object").write_bytes(b"changed")
    (top / "a/c").write_bytes(b"new")
    assert stored(swift, bucket, "a") == b"changed"
    assert sorted(listed(swift, bucket)) == ["a", "a/b", "a/c"]
    succeed("rm", "-r", top / "a")
    assert os.listdir(top) == ["a"]
    assert (top / "a").read_bytes() == b"changed"
    (top / "a").unlink()
    assert listed(swift, bucket) == {}


@pytest.mark.semantics("N7")
def test_objects_that_no_file_can_be_named_after_are_told_kept_and_moved(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    hidden = {f"/{'n' * 256}", "//x"}
    for key in ("d/file", *(f"d{name}" for name in hidden)):
        swift.put_object(bucket, key, b"content")
    served = mount(bucket)
    told = "2 objects are not shown"
    served.allow(told)
    assert os.listdir(served.path / "d") == ["file"]
    assert (served.path / "d/file").read_bytes() == b"content"
    assert served.log().count(told) == 1
    (served.path / "d").rename(served.path / "e")
    assert sorted(listed(swift, bucket)) == sorted(f"e{name}" for name in {*hidden, "/file"})
    (served.path / "e/file").unlink()
    assert os.listdir(served.path / "e") == []
    with refused(errno.ENOTEMPTY):
        (served.path / "e").rmdir()
    assert set(listed(swift, bucket)) >= {f"e{name}" for name in hidden}


@pytest.mark.semantics("N8")
def test_a_name_of_more_bytes_than_the_store_takes_is_too_long(
    project: Path, bucket: str, swift: Connection
) -> None:
    folder = project / bucket
    for _ in range(4):
        folder /= "x" * 250
        folder.mkdir()
    # Swift takes 1024 bytes.
    longest = 1024 - len(f"{folder.relative_to(project / bucket)}/")
    (folder / ("y" * longest)).write_bytes(b"content")
    (project / bucket / "file").write_bytes(b"content")
    before = listed(swift, bucket)
    too_long = folder / ("y" * (longest + 1))
    calls: tuple[Callable[[], object], ...] = (
        lambda: too_long.write_bytes(b"content"),
        # A directory's marker has a slash behind its name.
        lambda: (folder / ("z" * longest)).mkdir(),
        lambda: (project / bucket / "file").rename(too_long),
        lambda: too_long.symlink_to("file"),
        lambda: os.mknod(too_long),
        lambda: (project / bucket / ("ä" * 128)).write_bytes(b"content"),
    )
    for call in calls:
        with refused(errno.ENAMETOOLONG):
            call()
    assert listed(swift, bucket) == before


@pytest.mark.semantics("C29")
def test_the_longest_target_of_a_link_is_kept_and_a_longer_one_is_refused(
    project: Path, bucket: str, swift: Connection
) -> None:
    # Of another client: no link can have this target.
    swift.put_object(bucket, "theirs/longer", b"x" * 4096, content_type="inode/symlink")
    top = project / bucket
    (top / "d").mkdir()
    (top / "d" / "file").write_bytes(b"content")
    # What the kernel takes: PATH_MAX has the zero at the end, too.
    target = "./" * 2044 + "/d/file"
    assert len(target) == 4095
    (top / "link").symlink_to(target)
    assert os.readlink(top / "link") == target
    assert (top / "link").read_bytes() == b"content"
    assert stored(swift, bucket, "link") == target.encode()
    with refused(errno.ENAMETOOLONG):
        (top / "longer").symlink_to(f"./{target}")
    assert (top / "theirs/longer").read_bytes() == b"x" * 4096


# -- where they move ------------------------------------------------------------------------------


@pytest.mark.semantics("C25", "C26", "C27")
def test_a_rename_to_another_bucket_is_done_by_the_server(
    project: Path, bucket: str, swift: Connection, cloud: Cloud
) -> None:
    other = project / f"{bucket}-other"
    other.mkdir()
    for number in range(6):
        swift.put_object(bucket, f"d/{number}", pattern(MIB, seed=number))
    swift.put_object(bucket, "file", pattern(MIB))
    assert len(os.listdir(project / bucket / "d")) == 6
    cloud.forget_requests()
    (project / bucket / "file").rename(other / "file")
    (project / bucket / "d").rename(other / "moved")
    asked = cloud.requests()
    assert [each.method for each in asked].count("COPY") == 7
    assert sum(each.sent_bytes + each.received_bytes for each in asked) < MIB
    assert listed(swift, bucket) == {}
    assert set(listed(swift, other.name)) == {"file", *(f"moved/{number}" for number in range(6))}
    for number in range(6):
        assert stored(swift, other.name, f"moved/{number}") == pattern(MIB, seed=number)
        assert (other / f"moved/{number}").read_bytes() == pattern(MIB, seed=number)


@pytest.mark.semantics("C26")
@pytest.mark.parametrize(("method", "count"), [("COPY", 1), ("COPY", 60), ("POST", 1)])
def test_a_rename_whose_mount_was_killed_loses_no_file_and_is_completed_by_the_next_one(
    mount: MakeMount, bucket: str, swift: Connection, cloud: Cloud, method: str, count: int
) -> None:
    names = [f"{'d/' * (number % 3)}file-{number:03}" for number in range(120)]
    fill(cloud, bucket, [f"old/{name}" for name in names])
    killed = mount(bucket)
    old, new = killed.path / "old", killed.path / "new"
    assert old.is_dir()
    cloud.forget_requests()
    moving = subprocess.Popen(["mv", "-T", old, new], stderr=subprocess.DEVNULL)
    wait_until(
        lambda: [each.method for each in cloud.requests()].count(method) >= count,
        "the rename has come so far",
    )
    killed.kill()
    assert moving.wait(PATIENCE_S) != 0 or method == "POST"
    found = set(listed(swift, bucket))
    for name in names:
        whole = {f"old/{name}", f"new/{name}"} & found
        assert whole
        for key in whole:
            assert stored(swift, bucket, key) == f"old/{name}".encode()
    top = mount(bucket).path
    if (top / "old").exists():
        succeed("mv", "-T", top / "old", top / "new")
    assert os.listdir(top) == ["new"]
    assert {key for key in listed(swift, bucket) if key[-1] != "/"} == {f"new/{n}" for n in names}
    for name in names:
        assert (top / "new" / name).read_bytes() == f"old/{name}".encode()


@pytest.mark.semantics("C27")
def test_a_bucket_is_not_renamed_but_mv_moves_what_is_in_it(
    project: Path, bucket: str, swift: Connection
) -> None:
    (project / bucket / "d").mkdir()
    (project / bucket / "d" / "file").write_bytes(pattern(10_000))
    new, another = project / f"{bucket}-new", project / f"{bucket}-another"
    another.mkdir()
    for old, target in (
        (project / bucket, new),
        (project / bucket, another),
        (project / bucket, another / "d"),
        (project / bucket / "d", new),
        (project / bucket / "d", another),
    ):
        with refused(errno.EXDEV):
            old.rename(target)
    assert not new.exists()
    assert listed(swift, another.name) == {}
    succeed("mv", project / bucket, new)
    assert not (project / bucket).exists()
    assert stored(swift, new.name, "d/file") == pattern(10_000)
    with pytest.raises(ClientException, match="404"):
        swift.head_container(bucket)


@pytest.mark.semantics("C28")
def test_a_rename_without_room_for_both_names_is_edquot_and_changes_nothing(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    for key in ("file", "d/file"):
        swift.put_object(bucket, key, pattern(600))
    swift.post_container(bucket, {QUOTA: "1500"})
    served = mount(bucket)
    served.allow("rename .*: EDQUOT")
    before = listed(swift, bucket)
    for old, new in (("file", "new"), ("d", "e")):
        with refused(errno.EDQUOT):
            (served.path / old).rename(served.path / new)
        assert sorted(os.listdir(served.path)) == ["d", "file"]
    assert listed(swift, bucket) == before
    swift.post_container(bucket, {QUOTA: "5000"})
    (served.path / "file").rename(served.path / "new")
    (served.path / "d").rename(served.path / "e")
    assert stored(swift, bucket, "new") == stored(swift, bucket, "e/file") == pattern(600)
