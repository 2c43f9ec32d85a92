"""Content types of files, by their names. Pure.

The table of Python's mimetypes, without the files of this computer that it would read besides: one
name has one type everywhere. Formats of science that it lacks are added. What is compressed has
the type of that: a type of the content would promise bytes that a reader does not get.
"""

from __future__ import annotations

import mimetypes

DEFAULT_TYPE = "application/octet-stream"

_COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/x-brotli",
}
_OFFICE = "application/vnd.openxmlformats-officedocument."
_OPEN = "application/vnd.oasis.opendocument."
# Those that IANA has, and text as what it is. BAM, CRAM, BCF, NumPy's files and their like have no
# type of their own.
_MORE = {
    f"{_OFFICE}wordprocessingml.document": ".docx",
    f"{_OFFICE}spreadsheetml.sheet": ".xlsx",
    f"{_OFFICE}presentationml.presentation": ".pptx",
    f"{_OPEN}text": ".odt",
    f"{_OPEN}spreadsheet": ".ods",
    f"{_OPEN}presentation": ".odp",
    "application/geo+json": ".geojson",
    "application/geopackage+sqlite3": ".gpkg",
    "application/vnd.apache.parquet": ".parquet",
    "application/vnd.sqlite3": ".sqlite .sqlite3",
    "application/x-hdf5": ".h5 .hdf5 .he5",
    "application/x-ipynb+json": ".ipynb",
    "application/x-ndjson": ".jsonl .ndjson",
    "application/x-netcdf": ".nc .nc4",
    "application/yaml": ".yaml .yml",
    "application/zstd": ".zst",
    "text/markdown": ".md",
    # VCF is a format of variants here, not a business card.
    "text/plain": ".bed .fa .faa .fasta .fastq .ffn .fna .fq .gff .gff3 .gtf .log .sam .vcf",
}


def _make_table() -> mimetypes.MimeTypes:
    table = mimetypes.MimeTypes()
    for content_type, suffixes in _MORE.items():
        for suffix in suffixes.split():
            table.add_type(content_type, suffix)
    return table


_TABLE = _make_table()


def content_type(name: str) -> str:
    """Return the type of a file of this name."""
    # Only the end of a name says something, and guess_type() would take ``http:a`` for a URL.
    found, encoding = _TABLE.guess_type("./" + name, strict=False)
    if encoding is not None:
        return _COMPRESSED.get(encoding, DEFAULT_TYPE)
    return found or DEFAULT_TYPE
