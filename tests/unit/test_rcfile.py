"""RC files mean to allasfs what they mean to a shell, and nothing in them is run."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allasfs.errors import BadCredentials
from allasfs.store import rcfile

WANTED = frozenset(
    {"OS_AUTH_URL", "OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME", "OS_REGION_NAME", "OS_CACERT"}
)

# What a dashboard writes, in its idioms.
DASHBOARD = """\
#!/usr/bin/env bash
# To use an OpenStack cloud you need a *token* - see "the manual".
export OS_AUTH_URL=https://keystone.test:5001/v3
# It's the project that counts.
export OS_PROJECT_ID=0123456789abcdef
export OS_PROJECT_NAME="project_2001234"
export OS_USER_DOMAIN_NAME="Default"
if [ -z "$OS_USER_DOMAIN_NAME" ]; then unset OS_USER_DOMAIN_NAME; fi
export OS_PROJECT_DOMAIN_ID="default"
if [ -z "$OS_PROJECT_DOMAIN_ID" ]; then unset OS_PROJECT_DOMAIN_ID; fi
# unset v2.0 items in case set
unset OS_TENANT_ID
unset OS_TENANT_NAME
export OS_USERNAME="tester"
echo "Please enter your OpenStack Password for project $OS_PROJECT_NAME as user $OS_USERNAME: "
read -sr OS_PASSWORD_INPUT
export OS_PASSWORD=$OS_PASSWORD_INPUT
export OS_REGION_NAME="regionOne"
# Don't leave a blank variable, unset it if it was empty
if [ -z "$OS_REGION_NAME" ]; then unset OS_REGION_NAME; fi
export OS_INTERFACE=public
export OS_IDENTITY_API_VERSION=3
"""


class File:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "openrc.sh"
        self.prompts: list[str] = []

    def read(
        self,
        text: str,
        environ: Mapping[str, str] | None = None,
        *,
        typed: str | None = None,
        wanted: frozenset[str] = WANTED,
    ) -> dict[str, str]:
        self.path.write_bytes(text.encode())

        def ask(prompt: str) -> str:
            self.prompts.append(prompt)
            return typed or ""

        return rcfile.read(
            self.path,
            wanted=wanted,
            environ=environ or {},
            home=Path("/home/tester"),
            ask_password=None if typed is None else ask,
        )


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path)


def test_dashboard_file_asks_for_the_password_with_its_own_words(file: File) -> None:
    assert file.read(DASHBOARD, typed="s3cret 'x\"") == {
        "OS_AUTH_URL": "https://keystone.test:5001/v3",
        "OS_PROJECT_NAME": "project_2001234",
        "OS_USERNAME": "tester",
        "OS_PASSWORD": "s3cret 'x\"",
        "OS_REGION_NAME": "regionOne",
    }
    assert file.prompts == [
        "Please enter your OpenStack Password for project project_2001234 as user tester: "
    ]


def test_password_of_the_environment_answers_the_question(file: File) -> None:
    found = file.read(DASHBOARD, {"OS_PASSWORD": "from outside"}, typed="typed")
    assert found["OS_PASSWORD"] == "from outside"
    assert file.prompts == []


def test_question_without_a_terminal_names_variable_file_and_line(file: File) -> None:
    with pytest.raises(BadCredentials) as caught:
        file.read(DASHBOARD)
    assert str(caught.value) == (
        f"{file.path}, line 17: the file asks for OS_PASSWORD, and there is no terminal to ask at:"
        " set OS_PASSWORD in the environment"
    )


def test_empty_answer_is_an_error(file: File) -> None:
    with pytest.raises(BadCredentials, match="line 17: no OS_PASSWORD was given"):
        file.read(DASHBOARD, typed="")


def test_question_for_what_is_not_wanted_is_never_asked(file: File) -> None:
    assert file.read("read -p 'Continue? ' X\nOS_USERNAME=a", typed="no") == {"OS_USERNAME": "a"}
    assert file.prompts == []


def test_empty_region_is_not_set_after_the_idiom_of_dashboards(file: File) -> None:
    assert "OS_REGION_NAME" not in file.read(
        DASHBOARD.replace('"regionOne"', '""'), {"OS_REGION_NAME": "other", "OS_PASSWORD": "x"}
    )


def test_unset_hides_the_environment(file: File) -> None:
    text = "unset OS_USERNAME\nexport OS_PROJECT_NAME=p$OS_USERNAME"
    assert file.read(text, {"OS_USERNAME": "outside"}) == {"OS_PROJECT_NAME": "p"}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("export OS_USERNAME=abc", "abc"),
        ("OS_USERNAME=abc", "abc"),
        ("  export   OS_USERNAME=abc   # comment", "abc"),
        ("export A=1 OS_USERNAME=abc B=2", "abc"),
        ("declare -x OS_USERNAME=abc", "abc"),
        ("export OS_USERNAME=abc; export A=b", "abc"),
        ("export OS_USERNAME='a b $HOME `x` \\'", "a b $HOME `x` \\"),
        ('export OS_USERNAME="a \\"b\\" \\$c \\\\ \\x 5$"', 'a "b" $c \\ \\x 5$'),
        ("export OS_USERNAME=a'b'\"c\"\\ d", "abc d"),
        ("export OS_USERNAME=a#b", "a#b"),
        ("export OS_USERNAME=a\\\nb", "ab"),
        ('export OS_USERNAME="a\nb"', "a\nb"),
        ("export OS_USERNAME=$USER-x", "me-x"),
        ("export OS_USERNAME=${USER}x", "mex"),
        ("export OS_USERNAME=${NOBODY:-other}", "other"),
        ("export OS_USERNAME=${USER:-other}", "me"),
        ("export OS_USERNAME=${EMPTY:-other}", "other"),
        ("export OS_USERNAME=x${EMPTY-other}", "x"),
        ("export OS_USERNAME=~/ca.pem", "/home/tester/ca.pem"),
        ('export OS_USERNAME="~/x"', "~/x"),
        ("A=1\nexport OS_USERNAME=$A$A", "11"),
        ("export OS_USERNAME=abc\r\nexport A=1\r\n", "abc"),
        ("\ufeffexport OS_USERNAME=abc", "abc"),
        ("export OS_USERNAME=old\nexport OS_USERNAME=abc", "abc"),
        ('[ -n "$USER" ] && export OS_USERNAME=abc', "abc"),
        ('OS_USERNAME=abc\n[ -z "$USER" ] && unset OS_USERNAME', "abc"),
        ('[ -z "$USER" ] || OS_USERNAME=abc', "abc"),
        ('if [ "$USER" = you ]; then OS_USERNAME=x\nelse OS_USERNAME=abc; fi', "abc"),
        ("if [[ $USER == me ]]\nthen\nOS_USERNAME=abc\nelse\nOS_USERNAME=x\nfi", "abc"),
        (
            'if [ "$USER" = a ]; then OS_USERNAME=1; elif [ "$USER" = me ]; then OS_USERNAME=2;'
            " else OS_USERNAME=3; fi",
            "2",
        ),
        ('if [ -z "$USER" ]; then if [ -z "$X" ]; then OS_USERNAME=1; fi; fi; OS_USERNAME=2', "2"),
        ("export OS_USERNAME=abc\nreturn 0\nexport OS_USERNAME=x", "abc"),
        ("OS_USERNAME=abc\nif hostname | grep -q x; then echo $(date); fi", "abc"),
        ("OS_USERNAME=abc\nrm -rf / >/dev/null 2>&1 <<< 'x'", "abc"),
        ("OS_USERNAME=abc\nfor i in 1 2; do echo $i; done", "abc"),
        ("OS_USERNAME=abc\ncase $- in *i*) echo hello;; esac", "abc"),
        ("OS_USERNAME=abc\nOS_USERNAME=other command", "abc"),
        ("f() { echo hello; }\nf\nOS_USERNAME=abc", "abc"),
        ("X=$(date)\nA=(1 2)\nOS_USERNAME=abc", "abc"),
        ('echo "$(echo ")" \')\')"; OS_USERNAME=abc', "abc"),
        ("if some-command; then unset OS_PASSWORD; fi\nOS_USERNAME=abc", "abc"),
        ("set -a\nOS_USERNAME=abc\nset +a", "abc"),
    ],
)
def test_value_is_what_a_shell_makes_of_it(file: File, line: str, value: str) -> None:
    assert file.read(line, {"USER": "me", "EMPTY": ""}) == {"OS_USERNAME": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "A=1\nexport OS_PASSWORD=$(pass secret)",
            "line 2: the value of OS_PASSWORD is the output",
        ),
        ("export OS_PASSWORD=`pass secret`", "line 1: the value of OS_PASSWORD is the output"),
        ('export OS_PASSWORD="x$(pass "a b" \')\')y"', "line 1: the value of OS_PASSWORD is the"),
        ("P=$(pass secret)\n\nOS_PASSWORD=$P", "line 3: the value of OS_PASSWORD is the output"),
        ("OS_PASSWORD=secret${X%%y}", "line 1: the value of OS_PASSWORD is an expansion"),
        ("OS_PASSWORD=$'secret\\n'", "line 1: the value of OS_PASSWORD is in a form of quotation"),
        ("OS_PASSWORD=$1", "line 1: the value of OS_PASSWORD is a parameter of the shell"),
        ("OS_PASSWORD=(secret two)", "line 1: the value of OS_PASSWORD is an array"),
        ("OS_PASSWORD+=secret", "line 1: the value of OS_PASSWORD is appended to"),
        ("read -s P\nOS_PASSWORD=x$P", "line 2: the value of OS_PASSWORD is put together"),
        ("if command; then\n OS_PASSWORD=secret\nfi", "line 2: .* cannot decide"),
        ("OS_PASSWORD=a\nif command; then unset OS_PASSWORD; fi", "line 2: .* cannot decide"),
        ("command && OS_PASSWORD=secret", "line 1: .* cannot decide"),
        ("while true; do OS_PASSWORD=secret; done", "line 1: .* cannot decide"),
        ("f() { OS_PASSWORD=secret; }", "line 1: .* cannot decide"),
        ("(OS_PASSWORD=secret)", "line 1: .* cannot decide"),
        ("echo x | OS_PASSWORD=secret", "line 1: .* cannot decide"),
        ("\nOS_PASSWORD='secret\n", r"line 2: a quotation mark \('\) is never closed"),
        ('\nOS_PASSWORD="secret\n\n', r'line 2: a quotation mark \("\) is never closed'),
        ("OS_PASSWORD=`secret", "line 1: a backquote is never closed"),
        ("OS_PASSWORD=$(secret", "line 1: a bracket is never closed"),
        ("cat <<EOF\nOS_PASSWORD=secret\nEOF", "line 1: here-documents"),
    ],
)
def test_what_only_a_shell_could_tell_is_one_line_without_the_value(
    file: File, text: str, message: str
) -> None:
    with pytest.raises(BadCredentials, match=message) as caught:
        file.read(text, typed="secret")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_later_clear_value_replaces_an_unclear_one(file: File) -> None:
    assert file.read("OS_USERNAME=$(id -un)\nOS_USERNAME=abc") == {"OS_USERNAME": "abc"}


def test_nothing_is_run(file: File, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(BadCredentials):
        file.read(f"touch {mark}\nOS_PASSWORD=$(touch {mark})`touch {mark}`")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot be read: No such file"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(b"OS_PASSWORD=secret\xff"), "is not a text file in UTF-8"),
        (lambda path: path.write_bytes(b"#" * 2**20), "is too large to be an RC file"),
    ],
)
def test_file_that_is_none_is_one_line(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "rc")
    with pytest.raises(BadCredentials, match=message) as caught:
        rcfile.read(tmp_path / "rc", wanted=WANTED, environ={}, home=tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "rc"))


# -- against a real shell -------------------------------------------------------------------------

NAMES = ("A", "B", "C")

literals = st.text("abz019_-./:@%+,", min_size=0, max_size=4)
quoted = st.text("ab $`\\\"'#;&|()<>*~!{}=\n", max_size=6).map(shlex.quote)
in_quotes = st.text("ab '#;&|()<>*~={}\n", max_size=5)
references = st.sampled_from(
    [f for n in NAMES for f in (f"${n}", f"${{{n}}}", f"${{{n}:-d}}", f"${{{n}-d}}")]
)
double = st.lists(st.one_of(in_quotes, references, st.sampled_from(['\\"', "\\$", "\\\\", "\\`"])))
words = st.lists(
    st.one_of(
        literals,
        quoted,
        references,
        double.map(lambda parts: '"' + "".join(parts) + '"'),
        st.sampled_from(["\\ ", "\\$", "\\'", "\\#", "\\\n"]),
    ),
    max_size=4,
).map("".join)
names = st.sampled_from(NAMES)


def filled(template: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return a strategy for the template with its gaps filled."""
    return st.tuples(*parts).map(lambda chosen: template.format(*chosen))


setting = filled("{}={}", names, words) | filled("export {}={}", names, words)
setting |= filled("unset {}", names)
condition = filled('[ -z "${}" ]', names) | filled('[ -n "${}" ]', names)
condition |= filled('[ "${}" = "${}" ]', names, names) | filled("[[ ! ${} != b ]]", names)
condition |= st.sampled_from(["true", "false", ":"])
simple = setting | filled("{} && {}", condition, setting) | filled("{} || {}", condition, setting)
simple |= filled("{} && {} || {}", condition, setting, setting) | st.just(": # it's a comment")
statements = st.recursive(
    simple,
    lambda inner: (
        filled("if {}; then\n{}\nfi", condition, inner)
        | filled("if {}\nthen {}\nelse {}\nfi", condition, inner, inner)
        | filled("if {}; then {}\nelif {}; then {}\nfi", condition, inner, condition, inner)
        | filled("{}\n{}", inner, inner)
    ),
    max_leaves=5,
)
scripts = st.lists(statements, min_size=1, max_size=5).map("\n".join)


@pytest.mark.skipif(shutil.which("bash") is None, reason="compares with bash")
@given(script=scripts)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_bash_agrees(tmp_path_factory: pytest.TempPathFactory, script: str) -> None:
    environ = {"B": "b", "PATH": "/usr/bin:/bin"}
    show = "".join(f'\nprintf "%s\\0" "${{{name}-}}"' for name in NAMES)
    shell = subprocess.run(
        ["bash", "--norc", "-c", script + show],
        env=environ,
        capture_output=True,
        check=True,
        timeout=30,
    )
    values = dict(zip(NAMES, shell.stdout.decode().split("\0"), strict=False))
    path = tmp_path_factory.getbasetemp() / "script"
    path.write_bytes(script.encode())
    found = rcfile.read(path, wanted=NAMES, environ=environ, home=Path("/home/x"))
    # What the file leaves alone is not among its results; B is set from outside.
    seen = {"B": "b", **found} if "B" not in found and values["B"] == "b" else found
    assert seen == {name: value for name, value in values.items() if value}
