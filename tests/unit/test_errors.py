"""The table of conditions: an errno for each, an exit code for each, none twice."""

from __future__ import annotations

import errno

import pytest

from allasfs import errors
from allasfs.errors import Failed, FsError, NotFound, Refused, SetupError


def subclasses(cls: type) -> list[type]:
    found: list[type] = []
    below: type
    for below in cls.__subclasses__():
        found += [below, *subclasses(below)]
    return found


def conditions(base: type) -> list[type]:
    return [found for found in subclasses(base) if found.__module__ == errors.__name__]


@pytest.mark.parametrize("condition", conditions(FsError), ids=lambda cls: cls.__name__)
def test_every_condition_is_an_oserror_with_a_positive_errno(condition: type[FsError]) -> None:
    error = condition("bucket/key", "because")
    assert isinstance(error, OSError)
    assert error.errno == condition.code
    assert condition.code in errno.errorcode
    assert (error.subject, error.why) == ("bucket/key", "because")
    assert str(error) == "bucket/key: because"


@pytest.mark.parametrize("condition", conditions(FsError), ids=lambda cls: cls.__name__)
def test_every_condition_is_a_normal_answer_or_a_failure(condition: type[FsError]) -> None:
    assert issubclass(condition, Refused) != issubclass(condition, Failed)


def test_a_condition_without_words_says_what_its_errno_says() -> None:
    assert str(NotFound()) == "No such file or directory"
    assert str(NotFound("a")) == "a: No such file or directory"


@pytest.mark.parametrize("condition", conditions(SetupError), ids=lambda cls: cls.__name__)
def test_a_setup_error_s_text_is_the_line_for_the_user(condition: type[SetupError]) -> None:
    assert str(condition("do this")) == "do this"
    assert 1 < condition.exit_code < 126


def test_no_two_setup_errors_have_one_exit_code() -> None:
    codes = [found.exit_code for found in conditions(SetupError) if issubclass(found, SetupError)]
    assert len(codes) == len(set(codes))
