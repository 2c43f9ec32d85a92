"""Programs that change one file: what the shell and the core utilities do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from swiftclient.client import Connection

from tests.mount.support import KIB, MIB, PATIENCE_S, listed, md5, pattern, stored

from .support import Shell


def test_redirections_write_and_append(
    sh: Shell, there: Path, bucket: str, swift: Connection
) -> None:
    sh("for n in $(seq 20); do echo line $n >>log; done;echo first >other; echo last | cat >>other")
    assert stored(swift, bucket, "log") == b"".join(b"line %d\n" % n for n in range(1, 21))
    assert stored(swift, bucket, "other") == b"first\nlast\n"
    # One open file for several programs.
    sh("{ echo one; cat other; seq 3; } >log; cat <other >>log")
    assert (there / "log").read_text() == "one\nfirst\nlast\n1\n2\n3\nfirst\nlast\n"
    assert stored(swift, bucket, "log") == (there / "log").read_bytes()


def test_noclobber_refuses_an_existing_file(sh: Shell, bucket: str, swift: Connection) -> None:
    assert sh.run("set -C; echo one >file; echo two >file").returncode == 1
    assert stored(swift, bucket, "file") == b"one\n"


def test_tee_a_appends(sh: Shell, bucket: str, swift: Connection) -> None:
    sh("echo one | tee file other >/dev/null; echo two | tee -a file other >/dev/null")
    assert stored(swift, bucket, "file") == stored(swift, bucket, "other") == b"one\ntwo\n"


def test_dd_at_offsets(sh: Shell, there: Path, bucket: str, swift: Connection) -> None:
    data = bytearray(pattern(3 * MIB))
    (there / "source").write_bytes(pattern(MIB, seed=1))
    (there / "file").write_bytes(data)
    sh("dd if=source of=file bs=4k skip=3 seek=200 count=10 conv=notrunc,fsync")
    data[200 * 4096 : 210 * 4096] = pattern(MIB, seed=1)[3 * 4096 : 13 * 4096]
    assert stored(swift, bucket, "file") == data
    sh("dd if=source of=file bs=1000 count=3 oflag=append conv=notrunc")
    data += pattern(MIB, seed=1)[:3000]
    assert stored(swift, bucket, "file") == data
    sh("dd if=source of=file bs=64k seek=5 count=1")
    data = data[: 5 * 64 * KIB] + pattern(MIB, seed=1)[: 64 * KIB]
    assert stored(swift, bucket, "file") == data
    # What was never written is a hole, in the middle and before the end.
    sh(
        "dd if=source of=sparse bs=1M seek=2 count=1;"
        "dd if=source of=sparse bs=4k count=1 conv=notrunc"
    )
    source = pattern(MIB, seed=1)
    assert stored(swift, bucket, "sparse") == source[:4096] + bytes(2 * MIB - 4096) + source
    printed = sh("dd if=file bs=1 skip=70000 count=500 iflag=fullblock | md5sum")
    assert printed.split()[0] == md5(bytes(data[70000:70500]))


def test_dd_with_direct_and_synchronous_output(
    sh: Shell, there: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    data = pattern(2 * MIB + 512)
    (tmp_path / "source").write_bytes(data)
    sh('dd if="$1" of=synchronous bs=512k oflag=dsync', tmp_path / "source")
    sh('dd if="$1" of=direct bs=128k oflag=direct', tmp_path / "source")
    assert stored(swift, bucket, "synchronous") == stored(swift, bucket, "direct") == data


def test_split_and_cat(sh: Shell, there: Path, bucket: str, swift: Connection) -> None:
    data = pattern(5 * MIB + 3)
    (there / "file").write_bytes(data)
    sh("split -b 700K -d file part.; cat part.* >joined; cmp file joined")
    parts = [key for key in listed(swift, bucket) if key.startswith("part.")]
    assert parts == [f"part.{number:02}" for number in range(8)]
    assert b"".join(stored(swift, bucket, part) for part in parts) == data
    assert stored(swift, bucket, "joined") == data
    sh('split -n 3 file third.; sum=$(cat third.?? | md5sum); [ "$sum" = "$(md5sum <file)" ]')


def test_install_sets_mode_and_time(
    sh: Shell, there: Path, bucket: str, swift: Connection, sample: Path
) -> None:
    sh('install -D -m 750 "$1/script.sh" bin/run; install -p -m 640 "$1/text.txt" text', sample)
    assert (there / "bin" / "run").stat().st_mode & 0o7777 == 0o750
    assert sh("bin/run") == "from a script\n"
    assert (there / "text").stat().st_mode & 0o7777 == 0o640
    assert (there / "text").stat().st_mtime_ns == (sample / "text.txt").stat().st_mtime_ns
    assert swift.head_object(bucket, "bin/run")["x-object-meta-mode"].endswith("750")
    # Over a file that is there.
    sh('install -m 600 "$1/text.txt" bin/run', sample)
    assert (there / "bin" / "run").stat().st_mode & 0o7777 == 0o600
    assert stored(swift, bucket, "bin/run") == (sample / "text.txt").read_bytes()


def test_touch_and_stat(sh: Shell, there: Path, bucket: str, swift: Connection) -> None:
    (there / "file").write_text("content")
    sh("touch -d '1999-12-31 23:59:59.5' file; touch -r file other; touch -c lacking")
    assert sh("stat -c '%n %s %F %Y %y' file").split(" ", 2) == [
        "file",
        "7",
        "regular file 946684799 1999-12-31 23:59:59.500000000 +0000\n",
    ]
    assert sh("stat -c %.Y other") == "946684799.500000000\n"
    assert sorted(listed(swift, bucket)) == ["file", "other"]
    assert swift.head_object(bucket, "file")["x-object-meta-mtime"] == "946684799.5"
    sh("chmod u=rwx,go= file; mkdir -m 711 d")
    assert sh("stat -c '%a %F' file d") == "700 regular file\n711 directory\n"


def test_ln_s_makes_links_that_work(sh: Shell, there: Path, bucket: str, swift: Connection) -> None:
    sh("mkdir d; echo content >d/file; ln -s d/file link; ln -s d dirlink; ln -sf nowhere broken")
    assert sh("cat link dirlink/file; readlink link; readlink -f dirlink/file") == (
        f"content\ncontent\nd/file\n{there}/d/file\n"
    )
    assert sh.run("cat broken").returncode == 1
    sh("ln -sfn d/file broken; echo more >>link; rm dirlink")
    assert stored(swift, bucket, "d/file") == b"content\nmore\n"
    assert sh("cat broken") == "content\nmore\n"
    assert sorted(listed(swift, bucket)) == ["broken", "d/", "d/file", "link"]


def test_truncate_and_shred(sh: Shell, there: Path, bucket: str, swift: Connection) -> None:
    data = pattern(MIB)
    (there / "file").write_bytes(data)
    sh("truncate -s 300K file; truncate -s +100 file; truncate -s %4K file")
    expected = data[: 300 * KIB] + bytes(4 * KIB)
    assert stored(swift, bucket, "file") == expected
    assert (there / "file").read_bytes() == expected
    sh("shred -x -n 1 file")
    assert len(stored(swift, bucket, "file")) == len(expected)
    assert stored(swift, bucket, "file") == (there / "file").read_bytes() != expected
    sh("shred -x -n 1 -u file")
    assert listed(swift, bucket) == {}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("sed -i 's/line 1$/first/; $d' file", "first\nline 2\n"),
        ("sed -i.bak -e 2d file", "line 1\nline 3\n"),
        ("perl -i -pe 's/line/Zeile/' file", "Zeile 1\nZeile 2\nZeile 3\n"),
        ("perl -i.bak -ne 'print unless /2/' file", "line 1\nline 3\n"),
        ("sort -r -o file file", "line 3\nline 2\nline 1\n"),
    ],
    ids=["sed", "sed-backup", "perl", "perl-backup", "sort"],
)
def test_a_file_is_changed_in_place(
    sh: Shell, there: Path, bucket: str, swift: Connection, command: str, expected: str
) -> None:
    (there / "file").write_text("line 1\nline 2\nline 3\n")
    (there / "file").chmod(0o640)
    sh(command)
    assert (there / "file").read_text() == expected
    assert stored(swift, bucket, "file").decode() == expected
    if "bak" in command:
        assert stored(swift, bucket, "file.bak") == b"line 1\nline 2\nline 3\n"
    names = {"file", "file.bak"} if "bak" in command else {"file"}
    assert set(listed(swift, bucket)) == names
    if "sed" in command:
        assert (there / "file").stat().st_mode & 0o7777 == 0o640


def test_sort_of_more_than_it_keeps_in_memory(
    sh: Shell, there: Path, bucket: str, swift: Connection
) -> None:
    lines = [f"{number * 7919 % 60_000:05}\n" for number in range(60_000)]
    (there / "file").write_text("".join(lines))
    sh("mkdir tmp; sort -S 100K -T tmp -o file file; rmdir tmp")
    assert stored(swift, bucket, "file").decode() == "".join(sorted(lines))
    assert list(listed(swift, bucket)) == ["file"]


@pytest.mark.semantics("C18")
def test_fallocate_makes_room_and_holes(
    sh: Shell, there: Path, bucket: str, swift: Connection
) -> None:
    (there / "file").write_bytes(pattern(1000))
    sh("fallocate -l 300000 file")
    expected = bytearray(pattern(1000) + bytes(299_000))
    assert stored(swift, bucket, "file") == (there / "file").read_bytes() == expected
    sh("fallocate --punch-hole -o 100 -l 50 file; fallocate --zero-range -o 500 -l 300000 file")
    expected[100:150] = bytes(50)
    expected[500:] = bytes(300_000)
    assert stored(swift, bucket, "file") == (there / "file").read_bytes() == expected
    done = sh.run("fallocate -n -l 900000 file")
    assert "keep size mode is unsupported" in done.stderr
    assert stored(swift, bucket, "file") == expected


@pytest.mark.semantics("C30")
def test_a_hard_link_is_refused_as_mv_and_ln_expect(
    sh: Shell, there: Path, bucket: str, swift: Connection
) -> None:
    (there / "file").write_text("content")
    done = sh.run("ln file other")
    assert done.returncode == 1
    assert "Operation not permitted" in done.stderr
    sh("cp -al file other || cp -a file other; cat other")
    assert sorted(listed(swift, bucket)) == ["file", "other"]


def test_extended_attributes_are_copied(
    sh: Shell, there: Path, bucket: str, sample: Path, swift: Connection
) -> None:
    os.setxattr(sample / "text.txt", "user.origin", b"a value of \x00 bytes \xff")
    sh('cp -a "$1/text.txt" copied; rsync -aX "$1/text.txt" synced; cp -a copied again', sample)
    for name in ("copied", "synced", "again"):
        assert os.listxattr(there / name) == ["user.origin"]
        assert os.getxattr(there / name, "user.origin") == b"a value of \x00 bytes \xff"
    os.removexattr(there / "again", "user.origin")
    assert os.listxattr(there / "again") == []
    assert stored(swift, bucket, "again") == (sample / "text.txt").read_bytes()


def test_head_and_tail_read_parts(sh: Shell, there: Path) -> None:
    data = pattern(4 * MIB)
    (there / "file").write_bytes(data)
    assert sh("head -c 1000 file | md5sum").split()[0] == md5(data[:1000])
    assert sh("tail -c 1000 file | md5sum").split()[0] == md5(data[-1000:])
    assert sh("tail -c +3000000 file | md5sum").split()[0] == md5(data[2_999_999:])
    assert sh("wc -c <file") == f"{len(data)}\n"


def test_tail_f_follows_a_file(there: Path) -> None:
    (there / "log").write_text("one\n")
    with subprocess.Popen(
        ["tail", "-n", "+1", "-s", "0.1", "-f", str(there / "log")],
        stdout=subprocess.PIPE,
        text=True,
    ) as tail:
        assert tail.stdout is not None
        assert tail.stdout.readline() == "one\n"
        with (there / "log").open("a") as file:
            file.write("two\n")
        assert tail.stdout.readline() == "two\n"
        tail.terminate()


def test_flock_excludes_other_processes(sh: Shell, there: Path) -> None:
    script = "exec flock lock sh -c 'echo held; exec sleep 100'"
    with subprocess.Popen(
        ["bash", "-c", script], cwd=there, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert sh.run("flock -n lock echo taken").returncode == 1
        # flock and the program that it started.
        os.killpg(holder.pid, signal.SIGTERM)
    assert sh("flock -w 10 lock echo taken") == "taken\n"


def test_fcntl_locks_exclude_other_processes(there: Path) -> None:
    script = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'r+')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    (there / "lock").write_text("content of the lock")
    command = [sys.executable, "-c", script, str(there / "lock")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        second = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=PATIENCE_S
        )
        assert b"BlockingIOError" in second.stderr
        holder.communicate()
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=PATIENCE_S)
