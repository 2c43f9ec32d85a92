"""Content types by names: the same on each computer, and never the one of what is compressed."""

from __future__ import annotations

import mimetypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allasfs.fs.types import DEFAULT_TYPE, content_type
from allasfs.store.api import DIRECTORY_TYPES


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("data.h5", "application/x-hdf5"),
        ("data.nc", "application/x-netcdf"),
        ("data.parquet", "application/vnd.apache.parquet"),
        ("data.csv", "text/csv"),
        ("data.tsv", "text/tab-separated-values"),
        ("data.json", "application/json"),
        ("map.geojson", "application/geo+json"),
        ("image.tif", "image/tiff"),
        ("IMAGE.JPG", "image/jpeg"),
        ("reads.fastq", "text/plain"),
        ("calls.vcf", "text/plain"),
        ("reads.bam", DEFAULT_TYPE),
        ("reads.cram", DEFAULT_TYPE),
        ("reads.fastq.gz", "application/gzip"),
        ("calls.vcf.gz", "application/gzip"),
        ("data.csv.bz2", "application/x-bzip2"),
        ("data.json.xz", "application/x-xz"),
        ("data.json.zst", "application/zstd"),
        ("all.tar", "application/x-tar"),
        ("all.tar.gz", "application/gzip"),
        ("all.tgz", "application/gzip"),
        ("all.zip", "application/zip"),
        ("page.svgz", "application/gzip"),
        ("thesis.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("README", DEFAULT_TYPE),
        (".bashrc", DEFAULT_TYPE),
        (".csv", DEFAULT_TYPE),
        ("", DEFAULT_TYPE),
        ("12:30.csv", "text/csv"),
        ("data:text/html,x", DEFAULT_TYPE),
        ("http://x/y.csv", "text/csv"),
    ],
)
def test_a_name_tells_the_type(name: str, expected: str) -> None:
    assert content_type(name) == expected


@pytest.mark.semantics("C21")
def test_the_files_of_this_computer_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mimetypes.init()
    monkeypatch.setitem(mimetypes.types_map, ".csv", "application/x-of-this-computer")
    mimetypes.add_type("application/x-of-this-computer", ".unheard-of")
    assert mimetypes.guess_type("a.unheard-of")[0] == "application/x-of-this-computer"
    assert content_type("a.csv") == "text/csv"
    assert content_type("a.unheard-of") == DEFAULT_TYPE


@given(st.text(max_size=40))
def test_no_name_makes_a_directory_or_a_link(name: str) -> None:
    found = content_type(name)
    assert found not in DIRECTORY_TYPES
    assert found != "inode/symlink"
    assert found.isascii()
    assert "/" in found
