"""The unit file: what it must say, and that systemd itself understands it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from allasfs import errors
from allasfs.app.options import split_words
from tests.conftest import missing

UNIT = Path(__file__).parents[2] / "systemd" / "allasfs@.service"

# They give a unit a mount namespace of its own, in which its mount would be seen by nobody else.
NAMESPACED = (
    "PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectSystem", "ProtectHome",
    "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups",
    "ProtectProc", "ProcSubset", "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths",
    "BindPaths", "TemporaryFileSystem", "DynamicUser", "MountFlags", "RootDirectory",
)  # fmt: skip
# They keep a set-user-id program from working, by implying NoNewPrivileges for ordinary users.
UNPRIVILEGED = (
    "NoNewPrivileges", "SystemCallFilter", "SystemCallArchitectures", "RestrictAddressFamilies",
    "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality",
    "MemoryDenyWriteExecute", "ProtectClock", "ProtectHostname",
)  # fmt: skip


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_systemd_waits_until_the_mount_answers() -> None:
    assert settings()["Type"] == ["notify"]


def test_each_instance_has_its_own_configuration_and_credentials() -> None:
    (start,) = settings()["ExecStart"]
    assert "--config=/etc/allasfs/%i.conf" in start
    assert settings()["LoadCredential"] == ["openrc:/etc/allasfs/%i.rc"]
    assert "--rc-file=${CREDENTIALS_DIRECTORY}/openrc" in start


def test_the_command_is_one_that_the_program_understands() -> None:
    (start,) = settings()["ExecStart"]
    env, program, command, *words = start.split()
    assert (env, program, command) == ("/usr/bin/env", "allasfs", "mount")
    assert "--foreground=yes" in split_words(words).options
    assert split_words(words).positionals == ["%f"]


def test_uploads_are_waited_for_at_the_end() -> None:
    assert settings()["KillMode"] == ["mixed"]
    assert settings()["TimeoutStopSec"] == ["1h"]


def test_what_another_attempt_cannot_mend_is_not_attempted_again() -> None:
    given = {int(code) for code in settings()["RestartPreventExitStatus"][0].split()}
    hopeless = {
        errors.UsageError, errors.MountPointMissing, errors.MountPointNotEmpty,
        errors.AlreadyMounted, errors.NoFuseDevice, errors.NoLibfuse, errors.NoFusermount,
        errors.BadCredentials, errors.NoSuchBucket, errors.SpoolUnusable, errors.MissingPackage,
    }  # fmt: skip
    assert given == {kind.exit_code for kind in hopeless}
    assert errors.HostUnreachable.exit_code not in given


@pytest.mark.parametrize("name", [*NAMESPACED, *UNPRIVILEGED])
def test_what_hides_the_mount_or_breaks_fusermount_is_not_set(name: str) -> None:
    assert name not in settings()


def test_every_hardening_line_has_its_reason_before_it() -> None:
    lines = UNIT.read_text().splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith("# -- hardening"))
    for before, line in zip(lines[begin:], lines[begin + 1 :], strict=False):
        if line and not line.startswith(("#", "[", "WantedBy", "DeviceAllow")):
            assert before.startswith(("#", line.split("=")[0])), line


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        missing("needs systemd-analyze")
    instance = tmp_path / "allasfs@mnt-a.service"
    instance.write_text(UNIT.read_text())
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(instance)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if instance.name in line]
    assert complaints == []
