"""The C library's heap, set for pieces of files that come and go; for glibc only.

As it is, glibc gives the room of each freed piece back to the kernel and takes it anew for the
next: a sixth of the CPU time of a long read were page faults. ``keep`` lets it hold on to the room,
and ``trim`` gives it back when nobody reads any more.
"""

from __future__ import annotations

import ctypes

from allasfs.config import MIB

# <malloc.h>
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
# Less than what one reader has in flight: beyond it free room goes back at once.
KEPT_BYTES = 64 * MIB
# Pieces are smaller than this and come from the heap.
MAPPED_BYTES = MIB


def keep() -> None:
    """Hold on to free room, in one arena for all threads: each would keep its own."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    for parameter, value in (
        (M_ARENA_MAX, 1),
        (M_MMAP_THRESHOLD, MAPPED_BYTES),
        (M_TRIM_THRESHOLD, KEPT_BYTES),
    ):
        mallopt(parameter, value)


def trim() -> None:
    """Give free room back to the kernel."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return
    malloc_trim(ctypes.c_size_t(0))
