"""Options: where they may be given, which one counts, what is refused and in which words."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from allasfs.app import options
from allasfs.app.option_table import OPTIONS, Option, default_text, show_size
from allasfs.app.options import Settings, help_text, split_words, unknown_variables
from allasfs.config import GIB, MIB, Config, parse_size
from allasfs.errors import UsageError

UID, GID = 1234, 567


def read(
    *args: str, environ: dict[str, str] | None = None, files: tuple[Path, ...] = ()
) -> Settings:
    """Read options as the program does, without this computer's own files."""
    return options.read_settings(
        split_words([*args, "/mnt"]), environ or {}, list(files), uid=UID, gid=GID
    )


def config_file(folder: Path, text: str, name: str = "a.conf") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refusal(*args: str, environ: dict[str, str] | None = None, files: tuple[Path, ...] = ()) -> str:
    with pytest.raises(UsageError) as caught:
        read(*args, environ=environ, files=files)
    return str(caught.value)


# -- which one counts -----------------------------------------------------------------------------


def test_without_options_everything_is_the_default_and_files_are_ones_own() -> None:
    assert read().config == Config(uid=UID, gid=GID)


def test_a_flag_outweighs_the_environment(tmp_path: Path) -> None:
    assert read("--ttl", "1", environ={"ALLASFS_TTL": "2"}).config.ttl_s == 1


def test_an_item_of_o_outweighs_the_environment() -> None:
    assert read("-o", "ttl=1", environ={"ALLASFS_TTL": "2"}).config.ttl_s == 1


def test_the_environment_outweighs_a_configuration_file(tmp_path: Path) -> None:
    file = config_file(tmp_path, "ttl = 3\n")
    assert read(environ={"ALLASFS_TTL": "2"}, files=(file,)).config.ttl_s == 2


def test_the_users_file_outweighs_the_systems(tmp_path: Path) -> None:
    system = config_file(tmp_path, "ttl = 4\nmemory = 64M\n", "system.conf")
    user = config_file(tmp_path, "ttl = 3\n", "user.conf")
    config = read(files=(system, user)).config
    assert (config.ttl_s, config.memory) == (3, 64 * MIB)


def test_the_file_that_is_named_outweighs_the_users(tmp_path: Path) -> None:
    user = config_file(tmp_path, "ttl = 3\nmemory = 64M\n", "user.conf")
    named = config_file(tmp_path, "ttl = 5\n", "named [1].conf")
    config = read("--config", str(named), files=(user,)).config
    assert (config.ttl_s, config.memory) == (5, 64 * MIB)


def test_the_environment_names_a_configuration_file(tmp_path: Path) -> None:
    file = config_file(tmp_path, "ttl = 5\n")
    assert read(environ={"ALLASFS_CONFIG": str(file)}).config.ttl_s == 5


def test_a_missing_users_file_is_no_error(tmp_path: Path) -> None:
    assert read(files=(tmp_path / "missing.conf",)).config.ttl_s == Config().ttl_s


@pytest.mark.parametrize(
    ("args", "seconds"),
    [
        (["--ttl", "1", "-o", "ttl=2"], 2),
        (["-o", "ttl=2", "--ttl", "1"], 1),
        (["-o", "ttl=1,ttl=2"], 2),
        (["-o", "ttl=1", "-ottl=3"], 3),
    ],
)
def test_the_later_word_of_the_command_line_counts(args: list[str], seconds: int) -> None:
    assert read(*args).config.ttl_s == seconds


@pytest.mark.parametrize(
    ("args", "read_only"),
    [
        (["-o", "ro"], True),
        (["-o", "ro,rw"], False),
        (["-o", "rw,ro"], True),
        (["--ro", "--no-ro"], False),
        (["--ro=no"], False),
        (["--ro"], True),
    ],
)
def test_ro_and_rw_follow_the_later_word(args: list[str], read_only: bool) -> None:
    assert read(*args).config.read_only is read_only


def test_rw_on_the_command_line_outweighs_ro_in_a_file(tmp_path: Path) -> None:
    file = config_file(tmp_path, "ro\n")
    assert read(files=(file,)).config.read_only
    assert not read("-o", "rw", files=(file,)).config.read_only


def test_a_no_in_the_environment_outweighs_a_yes_in_a_file(tmp_path: Path) -> None:
    file = config_file(tmp_path, "allow-other = yes\n")
    assert not read(environ={"ALLASFS_ALLOW_OTHER": "no"}, files=(file,)).config.allow_other


def test_a_cloud_on_the_command_line_outweighs_an_rc_file_in_a_file(tmp_path: Path) -> None:
    file = config_file(tmp_path, "rc-file = /x\n")
    settings = read("--cloud", "a", files=(file,))
    assert (settings.cloud, settings.rc_file) == ("a", None)


# -- every option, everywhere ---------------------------------------------------------------------

SAMPLES = {
    "SIZE": ("64M", 64 * MIB),
    "SECONDS": ("7", 7.0),
    "N": ("77", 77),
    "UID": ("7", 7),
    "GID": ("7", 7),
    "MASK": ("077", 0o077),
    "FOLDER": ("/some/where", Path("/some/where")),
    "FILE": ("/some/where", Path("/some/where")),
    "NAME": ("name", "name"),
    "COMMAND": ("get | cut -c1", "get | cut -c1"),
    "URL": ("https://a/b", "https://a/b"),
    "LEVEL": ("debug", "debug"),
    "auto|slo|dlo": ("slo", "slo"),
    "BUCKET": ("name", ("name",)),
    "BUCKET[/PREFIX]": ("name", "name"),
    "listed|exact": ("exact", True),
    "": ("yes", True),
}


def value_of(option: Option, settings: Settings) -> object:
    holder = settings.config if hasattr(settings.config, option.dest) else settings
    return getattr(holder, option.dest)


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_an_option_means_the_same_wherever_it_is_given(option: Option, tmp_path: Path) -> None:
    text, value = SAMPLES[option.metavar]
    line = config_file(tmp_path, f"{option.name} = {text}\n")
    given = [
        read(f"--{option.name}={text}"),
        read("-o", f"{option.name}={text}"),
        read("-o", f"{option.name.replace('-', '_')}={text}"),
        read(environ={option.env_var: text}),
        read(files=(line,)),
    ]
    assert [value_of(option, settings) for settings in given] == [value] * 5


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_help_explains_an_option_with_its_default_and_variable(option: Option) -> None:
    text = " ".join(help_text("allasfs mount").split())
    # argparse breaks lines at hyphens, too.
    joined = text.replace("- ", "-")
    assert re.search(rf"--{option.name}( |\[)", joined)
    assert option.help.replace("- ", "-") in joined
    assert f"[default: {default_text(option)}] [{option.env_var}]" in joined


def test_every_setting_of_a_mount_has_an_option() -> None:
    filled = {option.dest for option in OPTIONS.values()} | {"prefix", "kernel_options"}
    assert {entry.name for entry in fields(Config)} <= filled


def test_every_option_fills_a_setting() -> None:
    known = {entry.name for kind in (Config, Settings) for entry in fields(kind)}
    assert {option.dest for option in OPTIONS.values()} <= known


@pytest.mark.parametrize(
    "option", [o for o in OPTIONS.values() if o.metavar == "SIZE"], ids=lambda o: o.name
)
def test_the_default_of_a_size_is_shown_as_it_can_be_written(option: Option) -> None:
    assert parse_size(default_text(option)) == getattr(Config(), option.dest)


def test_sizes_are_shown_in_the_largest_whole_unit() -> None:
    assert [show_size(n) for n in (0, 1, 1024, 3 * GIB, GIB + 1)] == [
        "0", "1", "1K", "3G", str(GIB + 1)
    ]  # fmt: skip


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-o", "tll=1"], ["'tll'", "'ttl'"]),
        (["--spoolsize", "1G"], ["'--spoolsize'", "'spool-size'"]),
        (["-o", "no-ttl"], ["'no-ttl'"]),
        (["-x"], ["'-x'"]),
        (["--noexec"], ["'--noexec'", "'-o noexec'"]),
    ],
)
def test_an_unknown_option_names_itself_and_the_nearest_known_one(
    args: list[str], words: list[str]
) -> None:
    line = refusal(*args)
    assert all(word in line for word in words), line


def test_a_name_that_is_only_ignored_is_not_proposed() -> None:
    for name in options.IGNORED:
        assert f"did you mean '{name}'" not in refusal(f"--{name}")
        assert f"did you mean '{name}'" not in refusal("-o", f"{name}x")


def test_an_unknown_option_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = config_file(tmp_path, "ttl = 1\nspol-size = 1G\n")
    line = refusal(files=(file,))
    assert all(word in line for word in (str(file), "'spol-size'", "'spool-size'")), line


def test_an_unknown_variable_is_named_with_the_nearest_known_one() -> None:
    lines = unknown_variables({"ALLASFS_TLL": "1", "ALLASFS_TTL": "1", "ALLASFS_CONFIG": "x"})
    assert lines == ["ALLASFS_TLL is no option: did you mean ALLASFS_TTL?"]


@pytest.mark.parametrize(
    "item",
    [
        "ttl=x", "ttl=-1", "ttl=inf", "ttl=nan", "ttl=", "ttl", "timeout=0", "connections=0",
        "connections=1.5", "memory=1K", "memory=5X", "spool-size=0", "segment-size=6G",
        "segment-size=1", "umask=8", "umask=1777", "umask=-1", "uid=-1", "ro=maybe",
        "log-level=loud",
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_refused_in_one_line(item: str) -> None:
    line = refusal("-o", item)
    assert item.partition("=")[0] in line
    assert "\n" not in line


def test_a_bad_value_in_the_environment_names_the_variable() -> None:
    assert refusal(environ={"ALLASFS_TTL": "x"}).startswith("ALLASFS_TTL: ")


def test_a_bad_value_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = config_file(tmp_path, "umask = 9\n")
    assert refusal(files=(file,)).startswith(f"{file}: ")


def test_a_named_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path / "missing") in refusal("--config", str(tmp_path / "missing"))


def test_a_configuration_file_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal("--config", str(tmp_path))


def test_a_configuration_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.conf"
    file.write_bytes(b"\xff\xfe\n")
    assert "UTF-8" in refusal(files=(file,))


def test_a_line_that_is_no_option_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(files=(config_file(tmp_path, "= 3\n"),))


def test_an_rc_file_and_a_cloud_together_are_refused() -> None:
    assert "not allowed" in refusal("--cloud", "a", "--rc-file", "/x")


def test_an_option_at_the_end_without_its_value_is_refused() -> None:
    with pytest.raises(UsageError, match="'--ttl' needs a value"):
        split_words(["/mnt", "--ttl"])


# -- fstab ----------------------------------------------------------------------------------------


def test_what_fstab_and_mount_pass_for_themselves_is_accepted() -> None:
    items = (
        "_netdev,noauto,nofail,user,users,exec,suid,dev,relatime,defaults,"
        "x-systemd.automount,x-gvfs-name=a%20b,comment=abc"
    )
    assert read("-o", items).config == Config(uid=UID, gid=GID)


def test_restrictions_of_fstab_reach_the_kernel() -> None:
    config = read("-o", "nosuid,nodev,noexec,noatime").config
    assert config.kernel_options == ("nosuid", "nodev", "noexec", "noatime")


def test_a_comma_in_a_value_is_written_with_a_backslash() -> None:
    assert read("-o", r"spool-dir=/a\,b,ro").config.spool_dir == Path("/a,b")


def test_a_relative_path_is_made_absolute_before_the_folder_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("--spool-dir", "spool").config.spool_dir == tmp_path / "spool"


# -- what to mount --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("", "")),
        ("/", ("", "")),
        ("bucket", ("bucket", "")),
        ("bucket/", ("bucket", "")),
        ("bucket/a/b", ("bucket", "a/b/")),
        ("bucket/a b/", ("bucket", "a b/")),
    ],
)
def test_a_bucket_and_prefix_are_taken_apart(text: str, expected: tuple[str, str]) -> None:
    assert options.parse_bucket(text) == expected


@pytest.mark.parametrize("text", ["/bucket", "a//b", "a/../b", "..", "a/./b", "//"])
def test_what_is_no_bucket_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no bucket"):
        options.parse_bucket(text)


def test_the_bucket_of_the_command_line_outweighs_the_option(tmp_path: Path) -> None:
    file = config_file(tmp_path, "bucket = other/part\n")
    assert read("one", files=(file,)).config.bucket == "one"
    config = read(files=(file,)).config
    assert (config.bucket, config.prefix) == ("other", "part/")


def test_words_may_stand_anywhere_between_options() -> None:
    settings = options.read_settings(
        split_words(["bucket", "--ro", "/mnt", "--ttl", "1"]), {}, [], uid=UID, gid=GID
    )
    assert (settings.config.bucket, settings.directory) == ("bucket", "/mnt")


def test_words_after_two_hyphens_are_no_options() -> None:
    settings = options.read_settings(
        split_words(["--ro", "--", "bucket", "-d"]), {}, [], uid=UID, gid=GID
    )
    assert (settings.config.bucket, settings.directory) == ("bucket", "-d")


@pytest.mark.parametrize("words", [[], ["a", "b", "c"]])
def test_too_few_or_too_many_words_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match="DIR"):
        options.read_settings(split_words(words), {}, [], uid=UID, gid=GID)
