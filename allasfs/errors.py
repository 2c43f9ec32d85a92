"""Every condition that allasfs reports, with its errno or exit code; imports nothing of allasfs.

Three trees:

- ``Refused``: normal answers of a file system (no such file, not empty). Logged at DEBUG.
- ``Failed``: the store, the network or the disk let us down. Logged at WARNING.
- ``SetupError``: a command cannot start its work. One line for the user, one exit code each.

``Refused`` and ``Failed`` are ``OSError`` with ``errno`` always set, so that one which slips past
the FUSE adapter still carries a positive number.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar


class FsError(OSError):
    """A file-system operation that ends with ``code`` as its errno."""

    code: ClassVar[int] = errno.EIO
    # An earlier attempt of the same request had no clear answer: it may still be done.
    may_be_done: bool = False

    def __init__(self, subject: str = "", why: str = "") -> None:
        """Name the path or object concerned, and what to tell a person who reads the log."""
        super().__init__(self.code, why or os.strerror(self.code), subject or None)
        self.subject = subject
        self.why = why

    def __str__(self) -> str:
        text = self.why or os.strerror(self.code)
        return f"{self.subject}: {text}" if self.subject else text


# -- normal answers -------------------------------------------------------------------------------


class Refused(FsError):
    """A normal refusal: the caller asked for what the rules do not allow."""


class NotFound(Refused):
    """No such bucket, object or directory."""

    code = errno.ENOENT


class Exists(Refused):
    """The name is taken, here or (bucket names are global on Allas) by another project."""

    code = errno.EEXIST


class NotADirectory(Refused):
    """A path component is a file."""

    code = errno.ENOTDIR


class IsADirectory(Refused):
    """A file operation on a directory."""

    code = errno.EISDIR


class DirectoryNotEmpty(Refused):
    """rmdir or rename over a directory that has entries."""

    code = errno.ENOTEMPTY


class AccessDenied(Refused):
    """The store said 403."""

    code = errno.EACCES


class TokenRefused(Refused):
    """The store said 401, also to a renewed token: no word of what this project may use."""

    code = errno.EACCES


class NotPermitted(Refused):
    """What the store has for nobody (a file beside the buckets, hard links, devices)."""

    code = errno.EPERM


class ReadOnly(Refused):
    """A change on a read-only mount."""

    code = errno.EROFS


class BadName(Refused):
    """A name that breaks the store's rules for names."""

    code = errno.EINVAL


class BadArgument(Refused):
    """An argument outside its range."""

    code = errno.EINVAL


class NameTooLong(Refused):
    """A component over 255 bytes, or an object name over the store's limit."""

    code = errno.ENAMETOOLONG


class NotUtf8(Refused):
    """A name that is not UTF-8, which Swift cannot keep."""

    code = errno.EILSEQ


class NotSupported(Refused):
    """What is not offered, here or by the server (attributes outside ``user.``)."""

    code = errno.EOPNOTSUPP


class NoAttribute(Refused):
    """No extended attribute of this name."""

    code = errno.ENODATA


class AttributeNameTooLong(Refused):
    """The store takes no metadata with so long a name."""

    code = errno.ERANGE


class AttributeTooLarge(Refused):
    """The store takes no metadata with so long a value."""

    code = errno.E2BIG


class AttributesFull(Refused):
    """The store takes no more metadata for this object."""

    code = errno.ENOSPC


class CrossDevice(Refused):
    """A rename that must be a copy: of a bucket, or out of the mounted prefix."""

    code = errno.EXDEV


class BadHandle(Refused):
    """The handle is closed, or not open for this access."""

    code = errno.EBADF


class FileTooBig(Refused):
    """More than the store accepts as one object."""

    code = errno.EFBIG


class LookAgain(Refused):
    """What the kernel knows of a name is too old: it looks the name up anew and asks again."""

    code = errno.ESTALE


# -- failures -------------------------------------------------------------------------------------


class Failed(FsError):
    """The store, the network or the local disk failed; the log line says what a person can do."""


class Unavailable(Failed):
    """No usable answer from the store after the retries."""

    code = errno.EIO


class TimedOut(Unavailable):
    """No progress within the deadline of the operation."""

    code = errno.ETIMEDOUT


class TooManyNames(Failed):
    """A listing that is longer than the memory for names allows, or that never ends."""

    code = errno.EOVERFLOW


class Corrupt(Failed):
    """Bytes that do not match their checksum or their announced length."""

    code = errno.EIO


class Stale(Failed):
    """The object was replaced or removed by another client while it was open."""

    code = errno.ESTALE


class NoSpace(Failed):
    """The spool is full, by its limit or by its disk."""

    code = errno.ENOSPC


class NoDescriptors(Failed):
    """This process, or the computer, may not open more files."""

    code = errno.ENFILE


class QuotaExceeded(Failed):
    """The store refused the bytes: quota of the project or bucket, or its count of objects."""

    code = errno.EDQUOT


class Internal(Failed):
    """A fault of allasfs itself; the log has the traceback."""

    code = errno.EIO


# -- commands that cannot start -------------------------------------------------------------------


class SetupError(Exception):
    """A command cannot do its work: ``str()`` is the line for the user."""

    exit_code: ClassVar[int] = 1


class UsageError(SetupError):
    """An unknown or malformed option, on the command line, in the environment or in a file."""

    exit_code = 2


class MountPointMissing(SetupError):
    """The mount point does not exist or is not a directory."""

    exit_code = 3


class MountPointNotEmpty(SetupError):
    """The mount point has entries that the mount would hide."""

    exit_code = 4


class AlreadyMounted(SetupError):
    """Something is mounted there already."""

    exit_code = 5


class NoFuseDevice(SetupError):
    """/dev/fuse is missing, or may not be opened."""

    exit_code = 6


class NoLibfuse(SetupError):
    """libfuse 2 cannot be loaded."""

    exit_code = 7


class NoFusermount(SetupError):
    """The fusermount program is missing."""

    exit_code = 8


class BadCredentials(SetupError):
    """Credentials are missing, contradictory or malformed, or the identity service refused them."""

    exit_code = 9


class HostUnreachable(SetupError):
    """The identity service or the object store cannot be reached."""

    exit_code = 10


class NoSuchBucket(SetupError):
    """The bucket to be mounted does not exist or may not be read."""

    exit_code = 11


class NotMounted(SetupError):
    """umount, sync or status of a directory that is no allasfs mount."""

    exit_code = 12


class SpoolUnusable(SetupError):
    """The spool folder cannot be made or read, is not ours alone, or another mount uses it."""

    exit_code = 13


class MountFailed(SetupError):
    """libfuse could not mount, for another reason; its own message is passed on."""

    exit_code = 14


class UnmountFailed(SetupError):
    """The mount is busy, or data could not be uploaded before the end."""

    exit_code = 15


class MissingPackage(SetupError):
    """An optional Python package is needed for this command."""

    exit_code = 16


class DemoFailed(SetupError):
    """The demo cloud cannot start or ended by itself."""

    exit_code = 17


class MountDead(SetupError):
    """The process that served the mount has ended without unmounting it."""

    exit_code = 18


class NotAnswering(SetupError):
    """The process that serves the mount does not answer in time."""

    exit_code = 19


class ChangedMeanwhile(SetupError):
    """A kept file is not uploaded: another client changed what is at its name."""

    exit_code = 20


class NotRecovered(SetupError):
    """A kept file could not be uploaded, saved whole or discarded."""

    exit_code = 21


class NotStored(SetupError):
    """Files that were closed are not in the store."""

    exit_code = 22
