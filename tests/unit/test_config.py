"""Sizes as people write them, and the settings that follow from others."""

from __future__ import annotations

import dataclasses

import pytest

from allasfs.config import GIB, KIB, MIB, TIB, Config, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("512", 512),
        ("1K", KIB),
        ("64M", 64 * MIB),
        ("64m", 64 * MIB),
        ("64MB", 64 * MIB),
        ("64MiB", 64 * MIB),
        ("5G", 5 * GIB),
        ("1T", TIB),
        ("10B", 10),
        (" 7k ", 7 * KIB),
    ],
)
def test_a_size_is_a_number_and_a_unit_of_1024(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "1 G", "5X", "1KK", "0x10", "1e3", "1\n2"])
def test_anything_else_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size: write a whole number"):
        parse_size(text)


def test_the_kernel_and_our_caches_share_the_ttl() -> None:
    config = Config(ttl_s=100.0)
    assert config.kernel_timeout_s > 0
    assert config.listing_ttl_s > 0
    assert config.kernel_timeout_s + config.listing_ttl_s == 100.0


def test_a_file_above_the_threshold_never_needs_one_put_beyond_the_store() -> None:
    assert Config().segment_threshold <= 5 * GIB
    assert Config().segment_size <= 5 * GIB


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().ttl_s = 1.0  # type: ignore[misc]
