"""One LMDB environment a store: opened only when it makes sense, closed only when nobody reads.

Owns     DIR/data.mdb and DIR/lock.mdb, the trees in it, the process's open environments.
Callers  persister (writes), reader (cold reads), check, backup.

    main        meta rows (records.seal): annapy (format), identity, state, options
    cells       folded stored key -> record (behind the whole key, if folded), or its size
    chunks      folded stored key, u32 -> a manifest (0) or a chunk of a large record
    deadlines   0, u64 deadline, folded key -> whole key if folded · 1, folded key -> u64 deadline

Invariants
    data.mdb appears in DIR whole or not at all: it is made beside and renamed
    nothing is mapped before the file's ends and meta pages have been looked at; a small file is
        walked page by page, and its contents are checked
    a process has at most one lmdb.Environment a directory (LMDB's locks are per process and file);
        a second opening for reading shares it
    a forked child never touches its parent's environment: `begin` raises there
    synchronous commits, no writable map, locks always on
"""
from __future__ import annotations

import os
import threading
import time

from annapy.errors import FormatError, StoreClosed, StoreLocked
from annapy.persist import owner, pages
from annapy.persist.faults import code_of, translate
from annapy.persist.records import seal, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

__all__ = [
    "DATA",
    "MAP_SIZE",
    "NEW_PREFIX",
    "Environment",
    "create",
    "lmdb_module",
    "read_row",
    "refuse_foreign",
    "remove_new",
    "sync_directory",
]

DATA = "data.mdb"
SCHEMA_VERSION = 1
FEATURES_KNOWN = 0             # bits of what a reader must understand
TREES = (b"cells", b"chunks", b"deadlines")
OWN_NAMES = {DATA, "lock.mdb", "owner", "node.log", "lost+found"}
NEW_PREFIX = ".new-"

MAP_SIZE = 1 << 40             # sparse: address space, not disk
MAP_SIZE_MIN = 1 << 24
READERS_MAX = 1024
SMALL_BYTES = 256 * 1024       # files up to here are checked in full when opened
CLOSE_WAIT_S = 1.0             # for reads in flight in other threads

_open_lock = [threading.Lock()]        # in a list, so that a forked child can have a fresh one
_open: dict[tuple[int, int], Environment] = {}
_hooks: list[bool] = []                # True once the fork hook is registered


def lmdb_module() -> Any:
    """py-lmdb, loaded when first needed."""
    import lmdb

    return lmdb


def read_row(txn: Any, name: bytes) -> bytes | None:
    """A meta row without its checksum, None if there is none; CorruptCellError if it is damaged."""
    value = txn.get(name)
    if value is None:
        return None
    return unseal(name, bytes(value), f"the meta row {name.decode()}")


def sync_directory(path: str) -> None:
    """Make renames in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _format_row() -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in (SCHEMA_VERSION, 0, 0))


def _check_format(directory: str, row: bytes | None) -> None:
    """A format row is u32 schema version, u32 features a reader must know, u32 others."""
    if row is None:
        raise FormatError(
            f"{directory!r} holds an LMDB environment of some other program, not an annapy store"
        )
    version = int.from_bytes(row[:4], "little")
    features = int.from_bytes(row[4:8], "little") if len(row) >= 8 else -1
    if version != SCHEMA_VERSION:
        raise FormatError(
            f"{directory!r} is a store of format {version}, this annapy reads format "
            f"{SCHEMA_VERSION}; use the annapy that wrote it, or a newer one",
            expected=SCHEMA_VERSION, found=version,
        )
    if features & ~FEATURES_KNOWN:
        raise FormatError(
            f"{directory!r} uses features {features:#x} that this annapy does not know "
            f"({FEATURES_KNOWN:#x}); use a newer one", expected=FEATURES_KNOWN, found=features,
        )


# --- making a store -------------------------------------------------------------------------

def refuse_foreign(directory: str) -> list[str]:
    """The names in a directory without a store; FormatError if one of them is not annapy's."""
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise translate(error, directory, "looking") from error
    foreign = [n for n in names if n not in OWN_NAMES and not n.startswith(NEW_PREFIX)]
    if foreign:
        raise FormatError(
            f"{directory!r} is not a store and not empty ({foreign[0]!r} is in it); "
            "name a new or an empty directory"
        )
    return names


def create(
    directory: str, first_rows: Callable[[os.stat_result], dict[bytes, bytes]]
) -> None:
    """Put a new data.mdb into an empty directory. The caller is its owner.

    `first_rows` gives its meta rows from what the file is: its identity names its own inode.
    Raises FormatError if the directory holds anything that is not annapy's.
    """
    for name in refuse_foreign(directory):
        if name.startswith(NEW_PREFIX):
            remove_new(os.path.join(directory, name))    # of a creation that was interrupted
    fresh = os.path.join(directory, f"{NEW_PREFIX}{os.getpid()}")
    try:
        os.mkdir(fresh, 0o700)
        _fill(fresh, first_rows)
        os.rename(os.path.join(fresh, DATA), os.path.join(directory, DATA))
        sync_directory(directory)
    except BaseException as error:
        if isinstance(error, (OSError, lmdb_module().Error)):
            raise translate(error, directory, "creating the store") from error
        raise
    finally:
        remove_new(fresh)


def _fill(path: str, first_rows: Callable[[os.stat_result], dict[bytes, bytes]]) -> None:
    env = _lmdb_open(path, map_size=MAP_SIZE_MIN, mode=0o600)
    try:
        with env.begin(write=True) as txn:
            for name in TREES:
                env.open_db(name, txn=txn)
            txn.put(b"annapy", seal(b"annapy", _format_row()))
        # A second commit, so that both meta pages describe this store and neither an empty one.
        with env.begin(write=True) as txn:
            for name, row in first_rows(os.stat(os.path.join(path, DATA))).items():
                txn.put(name, seal(name, row))
    finally:
        env.close()


def remove_new(path: str) -> None:
    """Take away a directory in which a store was being made."""
    try:
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
    except OSError:
        return                     # it is in nobody's way; the next creation tries again


def _lmdb_open(path: str, **options: Any) -> Any:
    """lmdb.open with what never varies; data version 1 also where another is py-lmdb's default."""
    lmdb = lmdb_module()
    options = {"max_dbs": 8, "max_readers": READERS_MAX, "max_spare_txns": 0, **options}
    try:
        return lmdb.open(path, lib_version=0, **options)
    except TypeError:              # a py-lmdb that knows only one data version
        return lmdb.open(path, **options)


# --- opening one ----------------------------------------------------------------------------

def _examine(directory: str, readonly: bool) -> bool:
    """Look at data.mdb before it is mapped; whether it is small enough to be checked in full."""
    path = os.path.join(directory, DATA)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise FormatError(f"{directory!r} holds no store: {DATA} is not there") from None
    except OSError as error:
        raise translate(error, directory, f"opening {DATA}") from error
    try:
        size = os.fstat(fd).st_size
        if not pages.supported():
            return False
        head = pages.read_head(fd)
        small = size <= SMALL_BYTES
        cut_off = (head.last_page + 1) * head.page_size > size
        # Pages at the end that were freed before they were ever written may be missing from the
        # file. Whether only those are missing takes a walk. Beside an owner the walk would race
        # with its commits; the reader's own snapshot is walked instead.
        if not readonly and (small or cut_off):
            pages.walk(fd, head)
            if cut_off:
                _extend(path, (head.last_page + 1) * head.page_size)
        return small or cut_off
    finally:
        os.close(fd)


def _extend(path: str, size: int) -> None:
    """Give the map something to stand on up to the last page number in use."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def _open_map(directory: str, readonly: bool, map_size: int) -> Any:
    """lmdb.open with as large a map as the address space allows."""
    lmdb = lmdb_module()
    import errno

    while True:
        try:
            return _lmdb_open(
                directory, map_size=map_size, readonly=readonly, create=False, mode=0o600
            )
        except (lmdb.Error, OSError, MemoryError) as error:  # noqa: PERF203 - a few tries
            no_room = code_of(error) == errno.ENOMEM or isinstance(error, (MemoryError,
                                                                           lmdb.MemoryError))
            if no_room and map_size > MAP_SIZE_MIN:
                map_size >>= 2
                continue
            if "already open in this process" in str(error):
                raise StoreLocked(
                    f"{directory!r} was open when this process was forked; open it in a process "
                    "that is started afresh", path=directory,
                ) from error
            raise translate(error, directory, "opening the store") from error


class Environment:
    """An open store's LMDB environment. `begin(db=…, write=…)` makes transactions on it."""

    __slots__ = (
        "_key", "_pid", "_uses", "begin", "cells", "chunks", "deadlines", "lmdb", "map_size",
        "path", "readonly", "small", "usable",
    )

    def __init__(self, directory: str, readonly: bool, map_size: int, small: bool) -> None:
        self.path = directory
        self.readonly = readonly
        self.small = small             # to be checked in full before it is trusted
        self.map_size = map_size
        self.usable = True             # neither closed nor inherited through a fork
        self._uses = 1
        self._pid = os.getpid()
        self._key = _key_of(directory)
        self._map()

    def _map(self) -> None:
        self.lmdb = _open_map(self.path, self.readonly, self.map_size)
        self.begin: Callable[..., Any] = self.lmdb.begin
        try:
            with self.lmdb.begin() as txn:
                _check_format(self.path, read_row(txn, b"annapy"))
            self._open_trees()
        except BaseException:
            self.lmdb.close()
            raise

    def reopen(self) -> None:
        """After a failed write of a meta page, LMDB refuses everything until it is opened anew.

        The caller has the only write transaction, and none is open. Reads in other threads that
        meet the change are repeated by their callers.
        """
        with _open_lock[0]:
            if not self.usable or self._pid != os.getpid():
                return
            _await_readers(self.lmdb)
            self.lmdb.close()
            _examine(self.path, self.readonly)
            self._map()

    def _open_trees(self) -> None:
        cells, chunks, deadlines = (self.lmdb.open_db(name, create=False) for name in TREES)
        self.cells = cells
        self.chunks = chunks
        self.deadlines = deadlines

    @classmethod
    def open(cls, directory: str, *, readonly: bool = False, map_size: int = MAP_SIZE
             ) -> Environment:
        """Open an existing store; for writing, the caller holds the directory's owner lock.

        Blocks for the disk only: O(1), but for small or cut-off files, which are walked. Raises
        FormatError (no store, a newer or foreign one), CorruptCellError (damaged or truncated),
        ReadOnlyError (permissions), StoreLocked (open in this process in a way that excludes it).
        """
        _hook_fork()
        with _open_lock[0]:
            key = _key_of(directory)
            known = _open.get(key)
            if known is not None and known._pid == os.getpid():
                if not readonly:
                    raise StoreLocked(
                        f"{directory!r} is already open in this process, for reading; close that "
                        "first", path=directory, owner=f"pid {os.getpid()}",
                    )
                known._uses += 1
                return known
            try:
                small = _examine(directory, readonly)
                env = cls(directory, readonly, map_size, small)
            except lmdb_module().Error as error:
                raise translate(error, directory, "opening the store") from error
            _open[key] = env
            return env

    def snapshot(self) -> Any:
        """A read transaction; use it in a `with` block, and briefly: it keeps old pages in use."""
        return self.begin()

    def head(self, fd: int, txn: Any) -> pages.Head | None:
        """The meta page of a read transaction's snapshot, None if it is already overwritten."""
        head = pages.read_head(fd, txn.id())
        return head if head.transaction == txn.id() else None

    def used_bytes(self, txn: Any, page_size: int = 4096) -> int:
        """What the trees take, as a write transaction sees them, free pages not counted."""
        total = 0
        for tree in (self.cells, self.chunks, self.deadlines):
            stat = txn.stat(tree)
            total += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            page_size = stat["psize"]
        return int(total * page_size)

    def file_bytes(self) -> int:
        """The size of data.mdb."""
        return os.stat(os.path.join(self.path, DATA)).st_size

    def close(self) -> None:
        """Close it once the last user is gone; waits up to a second for reads in other threads."""
        with _open_lock[0]:
            if self._uses == 0:
                return
            self._uses -= 1
            if self._uses:
                return
            if self._pid != os.getpid():
                return                 # a child's copy: not ours to touch
            _open.pop(self._key, None)
            self.usable = False
            self.begin = _refuse_closed
            _await_readers(self.lmdb)
            self.lmdb.close()


def _key_of(directory: str) -> tuple[int, int]:
    try:
        status = os.stat(directory)
    except FileNotFoundError:
        raise FormatError(f"{directory!r} holds no store: there is no such directory") from None
    except OSError as error:
        raise translate(error, directory, "looking") from error
    return status.st_dev, status.st_ino


def _await_readers(env: Any) -> None:
    """Until no thread of this process has a read transaction open, CLOSE_WAIT_S at most."""
    own = str(os.getpid())
    end = time.monotonic() + CLOSE_WAIT_S
    while time.monotonic() < end:
        rows = [line.split() for line in env.readers().splitlines()]
        if not any(row[:1] == [own] and row[-1] != "-" for row in rows):   # "-": a slot at rest
            return
        time.sleep(0.001)


def _refuse_closed(*_: object, **__: object) -> NoReturn:
    raise StoreClosed("the store is closed; open it again")


def _refuse_forked(*_: object, **__: object) -> NoReturn:
    raise StoreLocked(
        f"this store was opened before fork, by pid {os.getppid()}; a child cannot use its "
        "parent's store: open one after the fork, or share a directory with share=True",
        owner=f"pid {os.getppid()}",
    )


# A child's copies of open environments: kept for ever, because letting one go would run LMDB's
# clean-up on locks and reader slots that are the parent's.
_inherited: list[Environment] = []


def _after_fork() -> None:
    _open_lock[0] = threading.Lock()
    owner.after_fork()
    for env in _open.values():
        env.usable = False
        env.begin = _refuse_forked
        _inherited.append(env)
    _open.clear()


def _hook_fork() -> None:
    if not _hooks:
        _hooks.append(True)
        os.register_at_fork(after_in_child=_after_fork)
