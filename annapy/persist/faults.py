"""What LMDB and the operating system say, in the words of annapy's errors.

Owns     the translation, and nothing else: a function of the error and the file system's state.
Callers  every place of annapy.persist that calls LMDB or opens a file.

    no space, quota, file too large, map full, reader table full, no memory   CapacityError
    read-only file system or permissions                                      ReadOnlyError
    a page, a header or a tree that makes no sense                            CorruptCellError
    a data file of another LMDB version                                       FormatError
    everything else (an I/O error, a broken lock)                             AnnapyError

A short write is reported by LMDB as an I/O error: if there is indeed no room, say that instead.
"""
from __future__ import annotations

import errno
import os

from annapy.errors import (
    AnnapyError,
    CapacityError,
    CorruptCellError,
    FormatError,
    ReadOnlyError,
)

__all__ = ["code_of", "translate"]

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_TOLD_BY_TEXT = [*_NO_ROOM, *_READ_ONLY, errno.EIO, errno.ENOMEM]
_SCARCE_BYTES = 1 << 20        # less than this left, and a failed write was for want of room

_CORRUPT = ("CorruptedError", "PageNotFoundError", "InvalidError", "BadDbiError", "NotFoundError",
            "BadChecksumError", "ProblemError", "IncompatibleError")


def code_of(error: BaseException) -> int:
    """The errno that an OSError or an LMDB error carries, or 0.

    Before version 2, py-lmdb's errors carry the text only.
    """
    code = getattr(error, "errno", None) or getattr(error, "code", None)
    if isinstance(code, int):
        return max(code, 0)
    text = str(error)
    return next((c for c in _TOLD_BY_TEXT if text.endswith(os.strerror(c))), 0)


def translate(error: BaseException, directory: str, doing: str) -> AnnapyError:
    """The error to raise from `error`, which came up while `doing` something in `directory`."""
    if isinstance(error, AnnapyError):
        return error
    name, code = type(error).__name__, code_of(error)
    where = f"{doing} in {directory!r}"
    if code in _NO_ROOM or (code == errno.EIO and _no_room(directory)):
        return CapacityError(
            f"{where}: no room on the disk ({error}). What was committed is safe, the rest is kept "
            "in memory and retried; free some space, or raise the file size limit"
        )
    if name == "MapFullError":
        return CapacityError(
            f"{where}: the store has reached its size limit. What was committed is safe, the rest "
            "is kept in memory; delete keys, or open it with a larger disk_capacity="
        )
    if name in {"MemoryError", "TlsFullError"} or code == errno.ENOMEM:
        return CapacityError(f"{where}: no memory or address space left ({error})")
    if name == "ReadersFullError":
        return CapacityError(f"{where}: too many concurrent readers ({error}); close some")
    if code in _READ_ONLY or name in {"ReadonlyError", "LockError"}:
        return ReadOnlyError(
            f"{where}: not permitted ({error}). Check owner and mode of the directory and the "
            "files in it; readonly=True needs read access, and write access to lock.mdb"
        )
    if name == "VersionMismatchError":
        return FormatError(f"{where}: data.mdb is of another LMDB version ({error})")
    if name in _CORRUPT:
        return CorruptCellError(
            f"{where}: data.mdb is damaged ({error}). Run `annapy check`, then restore a backup"
        )
    return AnnapyError(f"{where}: {error or name}")


def _no_room(directory: str) -> bool:
    """Whether a write there could not go through: a full file system, or a file size limit."""
    try:
        room = os.statvfs(directory)
        if room.f_bavail * room.f_frsize < _SCARCE_BYTES:
            return True
        import resource

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit == resource.RLIM_INFINITY:
            return False
        return os.stat(os.path.join(directory, "data.mdb")).st_size + _SCARCE_BYTES > limit
    except (OSError, ImportError):
        return False
