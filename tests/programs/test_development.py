"""What programmers do in a directory: git, make, patch, editors."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from swiftclient.client import Connection

from tests.conftest import missing
from tests.mount.support import listed, stored

from .support import Shell, contents, tree

WHO = "-c user.name=Tester -c user.email=tester@example.org -c init.defaultBranch=main"


@pytest.fixture
def origin(sh: Shell, tmp_path: Path) -> Path:
    """A git repository of some commits on the local disk."""
    folder = tmp_path / "origin"
    folder.mkdir()
    sh(
        f"""
        git {WHO} init -q .
        printf '#!/bin/sh\\necho run\\n' >run.sh
        chmod 755 run.sh
        ln -s run.sh link
        for number in $(seq 4); do
          echo "change $number" >>text.txt
          mkdir -p "src/$number" && seq $((number * 500)) >"src/$number/numbers"
          git add -A
          git {WHO} commit -qm "Change $number"
        done
        git tag v1
        """,
        folder=folder,
    )
    return folder


def downloaded(swift: Connection, bucket: str, prefix: str, target: Path) -> Path:
    """Write what another client finds below a prefix to the local disk."""
    for key in listed(swift, bucket):
        path = target / key.removeprefix(prefix)
        if not key.startswith(prefix) or not key.removeprefix(prefix):
            continue
        if key.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        elif swift.head_object(bucket, key)["content-type"] != "inode/symlink":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(stored(swift, bucket, key))
    return target


def test_git_works_in_a_clone_on_the_mount(
    sh: Shell, there: Path, origin: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    sh('git clone -q "file://$1" work', origin)
    work = there / "work"
    assert contents(tree(work / "src")) == contents(tree(origin / "src"))
    assert sh("./link; readlink link", folder=work) == "run\nrun.sh\n"
    assert sh("git status --porcelain", folder=work) == ""
    sh(
        f"""
        echo new >new.txt
        git mv text.txt renamed.txt
        git rm -q src/1/numbers
        git add new.txt
        git {WHO} commit -qm 'Change on the mount'
        git checkout -q -b topic v1
        echo topic >topic.txt
        git add topic.txt
        git {WHO} commit -qm 'A topic'
        git checkout -q main
        git {WHO} merge -q --no-edit topic
        """,
        folder=work,
    )
    assert sh("git status --porcelain", folder=work) == ""
    assert sh("git log --format=%s | sort", folder=work).splitlines() == [
        "A topic",
        *(f"Change {number}" for number in range(1, 5)),
        "Change on the mount",
        "Merge branch 'topic'",
    ]
    sh("git gc -q --prune=now; git fsck --strict --full", folder=work)
    assert sh("git count-objects", folder=work) == "0 objects, 0 kilobytes\n"
    head = sh("git rev-parse HEAD", folder=work)
    # Another client downloads the repository and finds the same in it.
    copy = downloaded(swift, bucket, "work/.git/", tmp_path / "copy.git")
    assert sh("git fsck --strict --full; git rev-parse main", folder=copy) == head
    sh("git push -q origin topic", folder=work)
    assert sh("git cat-file -p topic:topic.txt", folder=origin) == "topic\n"
    sh("rm -rf work")
    assert listed(swift, bucket) == {}


def test_git_pushes_to_a_bare_repository_on_the_mount(
    sh: Shell, there: Path, origin: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    sh("git init -q --bare bare.git")
    sh('git push -q "$1" main v1', there / "bare.git", folder=origin)
    commit = f"echo more >>text.txt; git {WHO} commit -qam More"
    sh(f'{commit}; git push -q "$1" main', there / "bare.git", folder=origin)
    head = sh("git rev-parse HEAD", folder=origin)
    assert sh("git fsck --strict; git rev-parse main", folder=there / "bare.git") == head
    copy = downloaded(swift, bucket, "bare.git/", tmp_path / "copy.git")
    assert sh("git fsck --strict; git rev-parse main", folder=copy) == head


MAKEFILE = """
SOURCES := $(wildcard *.txt)

all: summary
summary: $(SOURCES:.txt=.count)
\tcat $^ >$@
%.count: %.txt
\twc -l <$< >$@
"""


def test_make_builds_only_what_is_older(
    sh: Shell, there: Path, bucket: str, swift: Connection
) -> None:
    (there / "Makefile").write_text(MAKEFILE)
    sh("for n in 1 2 3; do seq $n >$n.txt; done")
    assert sh("make | sort") == (
        "cat 1.count 2.count 3.count >summary\n"
        "wc -l <1.txt >1.count\nwc -l <2.txt >2.count\nwc -l <3.txt >3.count\n"
    )
    assert stored(swift, bucket, "summary") == b"1\n2\n3\n"
    assert sh("make") == "make: Nothing to be done for 'all'.\n"
    sh("make -q; seq 20 >2.txt")
    assert sh("make") == "wc -l <2.txt >2.count\ncat 1.count 2.count 3.count >summary\n"
    sh("make -q; touch -d '1 hour ago' *.txt; make -q; touch -d '1 minute' 3.txt")
    assert sh.run("make -q").returncode == 1
    assert stored(swift, bucket, "summary") == b"1\n20\n3\n"


def test_patch_changes_a_tree(
    sh: Shell, there: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    sh(
        """
        mkdir -p a/sub
        seq 100 >a/numbers
        echo gone >a/sub/gone
        cp -r a "$1"
        cp -r a b
        sed -i 's/^50$/fifty/' b/numbers
        rm b/sub/gone
        echo new >b/sub/new
        diff -ruN a b >change.diff || [ $? = 1 ]
        patch -s -d a -p1 <change.diff
        diff -r a b
        patch -s -R -d a -p1 <change.diff
        diff -r a "$1"
        patch -s -b -d a -p1 <change.diff
        """,
        tmp_path / "before",
    )
    assert stored(swift, bucket, "a/numbers") == stored(swift, bucket, "b/numbers")
    assert b"fifty" in stored(swift, bucket, "a/numbers")
    assert b"fifty" not in stored(swift, bucket, "a/numbers.orig")
    assert "a/sub/gone" not in listed(swift, bucket)


@pytest.fixture
def vim() -> str:
    """Vim by one of its names, without the settings of a user."""
    name = next((name for name in ("vim.tiny", "vim.basic", "vim") if shutil.which(name)), "")
    if not name:
        missing("needs vim")
    return f"{name} -u NONE -i NONE -es"


@pytest.mark.semantics("C25")
@pytest.mark.parametrize("backup", ["auto", "yes", "no"])
def test_vim_edits_a_file(
    sh: Shell, there: Path, bucket: str, swift: Connection, vim: str, backup: str
) -> None:
    (there / "file").write_text("first\nsecond\nthird\n")
    (there / "file").chmod(0o640)
    settings = f"set nocompatible swapfile backup backupskip= backupcopy={backup} fsync"
    sh(f"{vim} -c '{settings}' -c '%s/second/changed/' -c 'write' -c '$delete' -c 'xit' file")
    assert stored(swift, bucket, "file") == b"first\nchanged\n"
    assert (there / "file").read_text() == "first\nchanged\n"
    assert (there / "file").stat().st_mode & 0o7777 == 0o640
    assert stored(swift, bucket, "file~") in (
        b"first\nsecond\nthird\n",
        b"first\nchanged\nthird\n",
    )
    # No swap file and no test file is left.
    assert sorted(listed(swift, bucket)) == ["file", "file~"]


def test_vim_finds_the_swap_file_of_another_vim(
    sh: Shell, there: Path, bucket: str, swift: Connection, vim: str
) -> None:
    (there / "file").write_text("content\n")
    printed = sh(
        f"{vim} -c 'set nocompatible swapfile' -c 'edit file' -c 'normal Gonew'"
        " -c 'preserve' -c 'redir >names' -c 'swapname' -c 'redir END' -c 'write' -c 'quit' file;"
        "cat names"
    )
    assert ".file.swp" in printed
    assert sorted(listed(swift, bucket)) == ["file", "names"]
    assert stored(swift, bucket, "file") == b"content\nnew\n"
