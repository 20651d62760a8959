"""Backups: one file, taken while the store is in use, verified before it counts as one.

Owns     the files that it writes, under a temporary name until they are whole and on disk.
Callers  `Store.backup`, `annapy backup`, `annapy restore`.

Invariants
    a file under its final name is a whole backup: written, marked, verified, synced, then renamed
    a restored store never continues the identity of the one that it was taken from
    nothing that exists is overwritten
A backup is an LMDB data file without its free pages, whose identity row says ORIGIN_BACKUP.
"""
from __future__ import annotations

import os

from annapy.errors import CorruptCellError, FormatError
from annapy.persist import pages
from annapy.persist.check import Report, check_environment
from annapy.persist.env import (
    DATA,
    NEW_PREFIX,
    Environment,
    lmdb_module,
    remove_new,
    sync_directory,
)
from annapy.persist.faults import translate
from annapy.persist.owner import Owner
from annapy.persist.records import seal
from annapy.persist.recover import ORIGIN_BACKUP, read_identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["backup", "restore"]

PARTIAL = ".partial"
COPY_BYTES = 1 << 20


def backup(
    source: str | Environment, path: str, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Write a consistent copy of a store, as of the last commit, to the file `path`.

    `source`: the store's directory, or its environment where it is open in this process. Writers
    go on meanwhile; the copy's snapshot keeps its pages in use, so the store's file may grow. The
    copy is verified before it gets its name. Raises FileExistsError, FormatError (no store there),
    CorruptCellError (the store is damaged: nothing is written), CapacityError (no room).
    """
    path = os.path.abspath(path)
    if os.path.lexists(path):
        raise FileExistsError(f"{path!r} exists already; name a new file for the backup")
    if isinstance(source, Environment):
        return _backup(source, path, progress)
    env = Environment.open(os.path.abspath(source), readonly=True)
    try:
        return _backup(env, path, progress)
    finally:
        env.close()


def _backup(
    env: Environment, path: str, progress: Callable[[int, int], None] | None
) -> Report:
    folder = os.path.dirname(path)
    beside = f"{path}{PARTIAL}-{os.getpid()}"
    partial = os.path.join(beside, DATA)
    try:
        os.mkdir(beside, 0o700)
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            env.lmdb.copyfd(fd, compact=True)
        finally:
            os.close(fd)
        report = _mark_and_check(beside, progress)
        _give_name(partial, path)
        sync_directory(folder)
        return report
    except (OSError, lmdb_module().Error) as error:
        if isinstance(error, FileExistsError):
            raise
        raise translate(error, folder, f"backing up {env.path!r}") from error
    finally:
        remove_new(beside)


def _mark_and_check(
    directory: str, progress: Callable[[int, int], None] | None
) -> Report:
    """Let the copy's identity say that it is one, then verify all of it; durable on return."""
    env = Environment.open(directory)
    try:
        with env.begin(write=True) as txn:
            identity = read_identity(txn)
            identity.origin = ORIGIN_BACKUP
            txn.put(b"identity", seal(b"identity", identity.encode()))
        report = check_environment(env, progress)
        env.lmdb.sync(True)
    finally:
        env.close()
    if not report:
        raise CorruptCellError(f"{directory!r} is damaged: {report.problems[0]}")
    return report


def _give_name(partial: str, path: str) -> None:
    """A rename that never replaces anything, where the file system has hard links."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:
        os.rename(partial, path)


def restore(
    path: str, directory: str, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Make a store in `directory`, which must be new or empty, from the backup `path`.

    The backup is copied, the copy verified, and only then put in place; the store takes a new
    identity when it is opened. Raises FormatError (the directory is not empty, or the file is no
    backup), CorruptCellError (the backup is damaged), StoreLocked, CapacityError.
    """
    path, directory = os.path.abspath(path), os.path.abspath(directory)
    if not os.path.isfile(path):
        raise FormatError(f"{path!r} is not a backup: no such file")
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        names = os.listdir(directory)
    except OSError as error:
        raise translate(error, directory, "restoring") from error
    if names:
        raise FormatError(
            f"{directory!r} is not empty ({names[0]!r} is in it); restore into a new directory"
        )
    owner = Owner.acquire(directory)
    beside = os.path.join(directory, f"{NEW_PREFIX}{os.getpid()}")
    try:
        os.mkdir(beside, 0o700)
        _copy(path, os.path.join(beside, DATA))
        _walk(os.path.join(beside, DATA))
        report = _mark_and_check(beside, progress)
        os.rename(os.path.join(beside, DATA), os.path.join(directory, DATA))
        sync_directory(directory)
        return report
    except (OSError, lmdb_module().Error) as error:
        raise translate(error, directory, f"restoring {path!r}") from error
    finally:
        remove_new(beside)
        owner.release()


def _copy(source: str, target: str) -> None:
    """Bytes, synced."""
    with open(source, "rb") as read, open(target, "xb") as write:
        while True:
            block = read.read(COPY_BYTES)
            if not block:
                break
            write.write(block)
        write.flush()
        os.fsync(write.fileno())


def _walk(path: str) -> None:
    """Every page, before LMDB is asked to open a file that came from somewhere."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if pages.supported():
            pages.walk(fd, pages.read_head(fd))
    finally:
        os.close(fd)
