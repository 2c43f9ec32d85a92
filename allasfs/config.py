"""The frozen settings of a mount: every default with its reason; reads no environment, no file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

_SIZE = re.compile(r"(\d+)([KMGT]?)(I?B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}


def parse_size(text: str) -> int:
    """Return bytes for ``512``, ``64M``, ``5G``, ``1T`` (powers of 1024); raise ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(
            f"{text!r} is not a size: write a whole number and K, M, G or T, as in 64M"
        )
    return int(match[1]) * _UNITS[match[2].upper()]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one mount. Sizes are bytes, times are seconds."""

    # What to mount: the whole account (""), a bucket, or a prefix in a bucket (ends in "/").
    bucket: str = ""
    prefix: str = ""

    # How old an answer about names, sizes and times may be, in all caches together, the kernel's
    # included. A minute is what people wait for a colleague's file before they ask.
    ttl_s: float = 60.0
    # An operation ends at the latest after this long without progress. 60 s outlives a restart of
    # a proxy server and is about as long as a person watches a silent prompt.
    timeout_s: float = 60.0

    # Where written files wait for their upload. None: the program chooses a folder of its state.
    spool_dir: Path | None = None
    # Room for three objects of the largest size that goes up in one PUT.
    spool_size: int = 16 * GIB
    # Whether close() and fsync() return when the local disk has the bytes, or the store. Others see
    # what the store has, so that is the default.
    write_back: bool = False
    # How long a closed file waits for its upload then. Programs that write to a name of their own
    # and rename it (rsync, editors) do that within milliseconds, and one PUT is enough.
    write_back_delay_s: float = 1.0
    # Bytes in flight and kept for reading: a full window ahead for one reader, a quarter of it for
    # each of four (see readahead.py).
    memory: int = 128 * MIB
    # Names of objects that are remembered, and the most that one listing may have. 250 bytes each,
    # so 500 MB: four buckets of the most objects that Allas takes.
    names: int = 2_000_000
    # Connections to the object store at any moment. Swift's proxies serve about this many streams
    # of one client well; requests beyond it wait for a free one.
    connections: int = 16
    # Files above the threshold become segments and a manifest: 5 GB is what Allas' instructions
    # say, and just below what one PUT may hold (5 GiB).
    segment_threshold: int = 5_000_000_000
    # The segment size in CSC's examples. As segments may be 1000 and nobody knows how large a file
    # will be, later ones are larger (store/large.py).
    segment_size: int = GIB
    # How large objects are stored: "slo", "dlo", or "auto": static where listings tell their size.
    large_objects: str = "auto"

    # Whether attributes of versions that this computer never saw are asked for (one HEAD each), or
    # taken from the listing: the time when the object was stored, the mount's mode and owner.
    exact_attributes: bool = False
    # Extended attributes (user.*). They cost the kernel a question for each write (DESIGN.md).
    xattrs: bool = True
    # Where attributes are remembered for the next mount. None: nowhere; the program chooses a file.
    attr_db: Path | None = None
    # So many versions: two buckets of the most objects that Allas takes, some 300 MB. 0: none.
    attr_db_rows: int = 1_000_000

    # Requests that the kernel sends ahead of programs (reading ahead), each of which is a thread:
    # the kernel's own number. A call that a program waits for has a thread of its own always, so
    # that no number of writers which wait for room can keep `ls` from its answer.
    threads: int = 12
    # Descriptors that the process may have open: one for each file that is being written and each
    # connection. As many as anybody writes at once; the hard limit of the process counts, too.
    open_files: int = 65_536

    read_only: bool = False
    allow_other: bool = False
    # Whether the kernel checks modes and owners. None: where other users may come in.
    default_permissions: bool | None = None
    # Restrictions for the kernel, as mount(8) spells them (noexec, noatime, sync).
    kernel_options: tuple[str, ...] = ()
    # Owner of everything that does not say otherwise, and the bits taken from 0777 and 0666.
    uid: int = 0
    gid: int = 0
    umask: int = 0o022
    # Show the buckets that hold segments of large objects (``*_segments``).
    show_segments: bool = False
    # List the objects in which CSC's a-commands describe others (``*_ameta``).
    show_ameta: bool = True
    # Buckets of other projects, which are in no listing, to be shown at the root.
    extra_buckets: tuple[str, ...] = field(default=())

    @property
    def checks_permissions(self) -> bool:
        """Whether the kernel checks modes and owners of files."""
        return self.allow_other if self.default_permissions is None else self.default_permissions

    @property
    def kernel_timeout_s(self) -> float:
        """How long the kernel may answer by itself; our own caches get the rest of the TTL."""
        return self.ttl_s / 4

    @property
    def listing_ttl_s(self) -> float:
        """How long a listing is believed: with the kernel's share it adds up to ``ttl_s``."""
        return self.ttl_s - self.kernel_timeout_s
