"""Tokens that are read from a file, or from what a command prints."""

from __future__ import annotations

import logging
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allasfs.errors import BadCredentials, HostUnreachable
from allasfs.store import renewal, tokens
from allasfs.store.auth import Auth, load
from allasfs.store.forms import Sources
from tests.conftest import ExpectedLogs
from tests.fakes.clock import FakeClock
from tests.mount.support import wait_until

URL = "https://swift.test/v1/AUTH_a"
SECRET = "gAAAA-secret"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{SECRET}-1\n")
    return path


def auth_of(clock: FakeClock, **sources: Any) -> Auth:
    given = Sources(environ={"WORD": "printed"}, home=Path("/none"), storage_url=URL, timeout_s=30)
    return load(replace(given, **sources), clock=clock)


def sources_of(file: Path, kind: str) -> dict[str, Any]:
    if kind == "file":
        return {"token_file": file}
    return {"token_command": f"cat {shlex.quote(str(file))} | tr -d ' '"}


@pytest.mark.semantics("T4")
@pytest.mark.parametrize("kind", ["file", "command"])
def test_a_token_that_the_store_refuses_is_read_again(
    file: Path, clock: FakeClock, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    auth = auth_of(clock, **sources_of(file, kind))
    endpoint = auth.endpoint()
    assert (endpoint.storage_url, endpoint.token) == (URL, f"{SECRET}-1")
    file.write_text(f"{SECRET}-2\n")
    assert auth.endpoint().token == f"{SECRET}-1"
    assert auth.refused(f"{SECRET}-1") is True
    assert auth.endpoint().token == f"{SECRET}-2"
    source = str(file) if kind == "file" else "the token command"
    assert auth.describe() == {"kind": "token", "source": source, "storage url": URL}
    assert f"a new token from {source}" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.semantics("T4")
def test_a_token_that_is_there_still_is_refused_and_looked_at_again_later(
    file: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs("the object store refuses the token of .*token, and there is no other")
    auth = auth_of(clock, token_file=file)
    assert auth.endpoint().token == f"{SECRET}-1"
    assert auth.refused(f"{SECRET}-1") is False
    file.write_text(f"{SECRET}-2\n")
    # Not for each request of a tree that is read.
    assert auth.refused(f"{SECRET}-1") is False
    clock.advance(renewal.TOO_YOUNG_S)
    assert auth.refused(f"{SECRET}-1") is True
    assert auth.endpoint().token == f"{SECRET}-2"


@pytest.mark.semantics("T4")
def test_a_command_has_the_mount_s_environment_and_nothing_to_read(clock: FakeClock) -> None:
    assert auth_of(clock, token_command='cat; echo "$WORD"').endpoint().token == "printed"


@pytest.mark.semantics("T4", "S2")
@pytest.mark.parametrize(
    ("command", "why"),
    [
        (f"echo {SECRET}; echo {SECRET} >&2; exit 3", "the token command failed: exit code 3"),
        (f"echo {SECRET}; kill -9 $$", "the token command failed: exit code -9"),
        (f"echo Your token: {SECRET}", "the token command: this is no token"),
        (f"printf '{SECRET}\\n{SECRET}\\n'", "the token command: this is no token"),
        (f"printf '{SECRET}\\377'", "the token command: this is no token"),
        ("true", "the token command: this is no token"),
        ("no-such-program-anywhere", "the token command failed: exit code 127"),
    ],
)
def test_a_command_that_gives_no_token_is_told_without_its_output(
    clock: FakeClock,
    command: str,
    why: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(HostUnreachable) as caught:
        auth_of(clock, token_command=command).endpoint()
    assert str(caught.value) == why
    assert SECRET not in caplog.text
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.semantics("T4")
def test_a_command_that_does_not_end_is_ended_with_all_that_it_started(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "COMMAND_S", 0.5)
    alive = tmp_path / "alive"
    # The second one holds the pipe.
    command = f"(while :; do date > {shlex.quote(str(alive))}; sleep 0.05; done) & sleep 600"
    with pytest.raises(HostUnreachable, match=r"did not end within 0\.5 s"):
        auth_of(clock, token_command=command).endpoint()
    alive.unlink(missing_ok=True)
    time.sleep(0.3)
    assert not alive.exists()


def test_a_file_that_is_not_there_for_a_moment_is_asked_for_again(
    file: Path, clock: FakeClock
) -> None:
    file.rename(file.with_suffix(".new"))
    auth = auth_of(clock, token_file=file)
    with pytest.raises(HostUnreachable, match="cannot be read: No such file"):
        auth.endpoint()
    file.with_suffix(".new").rename(file)
    wait_until(lambda: auth.endpoint().token == f"{SECRET}-1", "it is read")


@pytest.mark.parametrize(
    ("sources", "why"),
    [
        ({"token_file": Path("/a"), "storage_url": None}, "/a: .* give the storage URL, too"),
        ({"token_command": "", "rc_file": None}, "the token command is empty"),
        ({"token_file": Path("/a"), "cloud": "b"}, "a cloud and a token file are both given"),
        ({"token_file": Path("/a"), "token_command": "b"}, "are both given: give one of them"),
    ],
)
def test_what_does_not_go_together_is_refused(
    clock: FakeClock, sources: dict[str, Any], why: str
) -> None:
    with pytest.raises(BadCredentials, match=why):
        auth_of(clock, **sources)
