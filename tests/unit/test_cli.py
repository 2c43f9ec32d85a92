"""The program as a user meets it: exit codes, one line of explanation, never a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from allasfs import __version__, errors
from allasfs.transfer.notes import KEPT, Note

ROOT = Path(__file__).parents[2]
LIMIT_S = 120


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mnt").mkdir()
    return tmp_path


def allasfs(
    folder: Path, *args: str, module: str = "allasfs", **environ: str
) -> tuple[int, str, str]:
    """Run the program in a clean environment; return exit code, output and error output."""
    done = subprocess.run(
        [sys.executable, "-m", module, *args],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd=folder,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout, done.stderr


def refusal(folder: Path, code: int, *args: str, **environ: str) -> str:
    """Run the program, which must end with the code and one line; return the line."""
    status, output, line = allasfs(folder, *args, **environ)
    assert (status, output) == (code, ""), line
    assert line.startswith("allasfs: "), line
    assert line.count("\n") == 1, line
    return line


def test_the_version_is_printed(folder: Path) -> None:
    assert allasfs(folder, "--version") == (0, f"allasfs {__version__}\n", "")
    assert allasfs(folder, "mount", "--version") == (0, f"allasfs {__version__}\n", "")


@pytest.mark.parametrize("command", ["mount", "umount", "status", "recover", "demo"])
def test_help_names_every_command_and_each_has_its_own(folder: Path, command: str) -> None:
    status, text, _ = allasfs(folder, "--help")
    assert status == 0
    assert f"allasfs {command} " in text
    status, text, _ = allasfs(folder, command, "--help")
    assert status == 0
    assert f"allasfs {command}" in text
    assert "DIR" in text


def test_help_is_a_command_too(folder: Path) -> None:
    assert allasfs(folder, "help") == allasfs(folder, "--help")
    for words in (["mount"], ["umount"], ["recover"], ["recover", "retry"]):
        assert allasfs(folder, "help", *words) == allasfs(folder, *words, "--help")
    assert "did you mean 'mount'" in refusal(folder, 2, "help", "moutn")


@pytest.mark.parametrize("command", ["umount", "status", "recover", "demo"])
def test_help_of_a_command_shows_the_default_of_each_option(folder: Path, command: str) -> None:
    _, text, _ = allasfs(folder, command, "--help")
    options = text.count("\n  --") + text.count("\n  -h, --help")
    assert text.count("[default:") == options - 1  # --help itself has none


@pytest.mark.parametrize(
    ("command", "words"), [("retry", "ID...|--all"), ("save", "ID FILE"), ("discard", "ID...")]
)
def test_help_of_recover_names_the_words_of_each_command(
    folder: Path, command: str, words: str
) -> None:
    _, text, _ = allasfs(folder, "recover", command, "--help")
    assert text.startswith(f"usage: allasfs recover {command} {words}")


def test_a_wrong_time_to_wait_is_told_in_words(folder: Path) -> None:
    line = refusal(folder, 2, "umount", "--wait", "x", "mnt")
    assert "x is neither a number of seconds above 0 nor 'forever'" in line


def test_a_demo_without_its_packages_names_them(folder: Path) -> None:
    (folder / "sitecustomize.py").write_text("import sys; sys.modules['waitress'] = None")
    path = f"{folder}{os.pathsep}{ROOT}"
    status, _, line = allasfs(folder, "demo", "mnt", PYTHONPATH=path)
    assert (status, line.count("\n")) == (errors.MissingPackage.exit_code, 1), line
    assert "needs waitress" in line


def test_without_a_command_all_are_named(folder: Path) -> None:
    assert "mount, umount, sync, status, recover, demo" in refusal(folder, 2)


def test_an_unknown_command_names_the_nearest(folder: Path) -> None:
    assert "did you mean 'umount'" in refusal(folder, 2, "unmount", "mnt")


@pytest.mark.parametrize(
    "args",
    [
        ["mount"],
        ["mount", "-o", "tll=1", "mnt"],
        ["mount", "--ttl=x", "mnt"],
        ["umount"],
        ["umount", "--wiat", "1", "mnt"],
        ["umount", "--wait", "0", "mnt"],
        ["umount", "--wait", "soon", "mnt"],
        ["status", "a", "b"],
        ["demo"],
        ["demo", "--tll=1", "mnt"],
    ],
)
def test_a_wrong_word_ends_with_2(folder: Path, args: list[str]) -> None:
    refusal(folder, errors.UsageError.exit_code, *args)


def test_a_wrong_value_in_the_environment_ends_with_2(folder: Path) -> None:
    assert "ALLASFS_TTL" in refusal(folder, 2, "mount", "mnt", ALLASFS_TTL="x")


def test_a_wrong_line_in_the_users_configuration_ends_with_2(folder: Path) -> None:
    file = folder / ".config" / "allasfs" / "allasfs.conf"
    file.parent.mkdir(parents=True)
    file.write_text("tll = 3\n")
    assert str(file) in refusal(folder, 2, "mount", "mnt")


def test_a_variable_that_is_no_option_is_named_and_does_no_harm(folder: Path) -> None:
    (folder / "mnt" / "file").touch()
    status, _, lines = allasfs(folder, "mount", "mnt", ALLASFS_TLL="1")
    assert status == errors.MountPointNotEmpty.exit_code
    assert "ALLASFS_TLL is no option: did you mean ALLASFS_TTL?" in lines


def test_a_missing_mount_point_ends_with_3(folder: Path) -> None:
    assert "mkdir" in refusal(folder, 3, "mount", "missing")


def test_a_file_as_mount_point_ends_with_3(folder: Path) -> None:
    (folder / "file").touch()
    assert "not a directory" in refusal(folder, 3, "mount", "file")


def test_a_mount_point_with_entries_ends_with_4(folder: Path) -> None:
    (folder / "mnt" / "file").touch()
    assert "not empty" in refusal(folder, 4, "mount", "mnt")


def test_a_mount_point_of_something_else_ends_with_5(folder: Path) -> None:
    assert "proc" in refusal(folder, 5, "mount", "/proc")


@pytest.mark.parametrize("command", ["umount", "status"])
def test_a_directory_without_a_mount_ends_with_12(folder: Path, command: str) -> None:
    assert str(folder / "mnt") in refusal(folder, 12, command, "mnt")


@pytest.mark.parametrize("command", ["umount", "status"])
def test_a_mount_of_something_else_ends_with_12(folder: Path, command: str) -> None:
    assert "not allasfs" in refusal(folder, 12, command, "/proc")


def test_a_stale_control_socket_is_no_mount(folder: Path) -> None:
    (folder / "allasfs").mkdir(mode=0o700)
    from allasfs.app.folders import control_name

    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "allasfs" / control_name(str(folder / "mnt"))))
    refusal(folder, 12, "status", "mnt")


def mount_helper(folder: Path, *words: str) -> tuple[int, str]:
    """Run what mount(8) calls; return its exit code and the lines for the user."""
    script = "import sys; from allasfs.app.cli import mount_helper; sys.exit(mount_helper())"
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["none"], 2, "required: DIR"),
        (["none", "DIR", "more"], 2, "more"),
        (["none", "/nonexistent", "--foreground"], 2, "--foreground"),
        (["none", "/nonexistent", "-x"], 2, "-x"),
        (["none", "/nonexistent", "-o"], 2, "-o"),
        (["none", "/nonexistent", "-orw,nofail"], 3, "/nonexistent"),
        (["none", "/nonexistent", "-snvorw,nofail"], 3, "/nonexistent"),
        (["-t", "fuse.allasfs", "none", "/nonexistent", "-o", "rw", "-onofail"], 3, "/nonexistent"),
        (["none", "/nonexistent", "-o", ""], 3, "/nonexistent"),
        (["none", "/nonexistent", "-otll=1"], 2, "'tll'"),
    ],
)
def test_the_helper_of_mount_does_as_it_is_told_or_says_why_not(
    folder: Path, words: list[str], code: int, line: str
) -> None:
    status, lines = mount_helper(folder, *words)
    assert (status, lines.count("\n")) == (code, 1), lines
    assert line in lines


@pytest.mark.parametrize("word", ["-f", "-sfnv"])
def test_the_helper_of_mount_does_not_mount_when_only_a_pretence_is_wanted(
    folder: Path, word: str
) -> None:
    assert mount_helper(folder, "none", "/nonexistent", word, "-o", "rw") == (0, "")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["lsit"], "'lsit' is no command of allasfs recover: list, retry, save, discard"),
        (["retry"], "name IDs or --all"),
        (["retry", "--all", "ab"], "name IDs or --all"),
        (["retry", "--all", "--as", "b/k"], "--as is for one file"),
        (["retry", "ab", "--as", "bucket"], "bucket is not BUCKET/NAME"),
        (["retry", "ab", "--ttl"], "option '--ttl' needs a value"),
        (["retry", "ab", "--ovre"], "unknown option '--ovre'"),
        (["save", "ab"], "name one ID and one FILE"),
        (["discard", "ab"], "'ab' is the ID of no kept file"),
    ],
)
def test_a_wrong_word_of_recover_ends_with_2(folder: Path, args: list[str], line: str) -> None:
    assert line in refusal(folder, 2, "recover", *args)


@pytest.mark.semantics("R13")
def test_recover_lists_every_spool_without_credentials(folder: Path) -> None:
    assert allasfs(folder, "recover") == (0, "nothing is kept\n", "")
    for spool, name in (("state", "aa"), ("state", "ab"), ("chosen", "b")):
        place = folder / (".local/state/allasfs/spool/host-1" if spool == "state" else spool)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.data").write_bytes(b"content")
        note = Note(KEPT, "bucket", "line\nbreak", size=7, present=((0, 7),), why="w\t", when=1.0)
        note.save(place / f"{name}.upload", durable=False)
    status, text, line = allasfs(folder, "recover", "--spool", "chosen")
    assert (status, line) == (0, "")
    rows = [row.split("\t") for row in text.splitlines()]
    assert [row[:3] for row in rows] == [
        [name, r"bucket/line\nbreak", "7"] for name in ("aa", "ab", "b")
    ]
    assert {row[4] for row in rows} == {r"w\t"}
    status, text, _ = allasfs(folder, "recover", "--json", ALLASFS_SPOOL_DIR="chosen")
    assert [each["key"] for each in json.loads(text)] == ["line\nbreak"] * 3
    assert "is the beginning of several" in refusal(folder, 2, "recover", "discard", "a", "--yes")
    (folder / "file").write_text("mine")
    refusal(folder, 21, "recover", "save", "aa", "file")
    assert (folder / "file").read_text() == "mine"
    assert allasfs(folder, "recover", "save", "aa", "saved")[0] == 0
    assert (folder / "saved").read_bytes() == b"content"


@pytest.mark.parametrize("command", [["list"], ["retry", "--all"], ["discard", "ab", "--yes"]])
def test_recover_of_a_folder_that_is_none_ends_with_13(folder: Path, command: list[str]) -> None:
    (folder / "file").touch()
    for name, why in (("missing", "No such file"), ("file", "Not a directory")):
        line = refusal(folder, 13, "recover", *command, "--spool", name)
        assert f"{folder / name} is no spool folder: {why}" in line
    assert "Not a directory" in refusal(folder, 13, "recover", ALLASFS_SPOOL_DIR="file")
    # A mount would make it.
    environ = {"ALLASFS_SPOOL_DIR": "missing"}
    assert allasfs(folder, "recover", **environ) == (0, "nothing is kept\n", "")


def test_every_exit_code_has_one_meaning() -> None:
    codes = [
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.SetupError)
        and "exit_code" in vars(kind)
    ]
    assert len(codes) == len(set(codes))
