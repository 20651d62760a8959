"""What all Store objects of one open store share: engine, disk tier, watchers, locks, life.

Owns    Hub, the table of open directories of this process, opening and closing, fork and exit.
Threads opening and closing are serialised by one lock; everything else is the engine's business.

Invariants
    a directory is opened once a process: later opens share the hub, and count as users of it
    users == 0  =>  closed;  closed  =>  engine.closed, the last commit done, the directory free
    a forked child never writes to a directory that its parent owns, nor closes it
"""
from __future__ import annotations

import os
import sys
from _thread import RLock
from _weakref import ref

from annapy.options import agree_with_record, effective_capacity, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from typing import Any

    from annapy.locks import LockTable
    from annapy.options import Options
    from annapy.store import Store
    from annapy.watch import Switchboard

    Ack = str | int
    Duration = float | str | timedelta

__all__ = ["CLOSED", "Hub", "connect", "open_store", "reopen"]

_opening = RLock()
_hubs: dict[object, ref[Hub]] = {}     # real path, or id for a store in memory
_watching_exit = False


class _Closed:
    """What stands where the engine was, once a store or view is closed."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        from annapy.errors import StoreClosed
        raise StoreClosed("the store was closed; open it again")


CLOSED: Any = _Closed()


class Hub:
    """One open store. `persister` is None in memory."""

    __slots__ = ("__weakref__", "_locks", "_switchboard", "closed", "engine", "options",
                 "persister", "pid", "place", "users")

    def __init__(self, options: Options, place: object, engine: Any, persister: Any) -> None:
        self.options = options
        self.place = place
        self.engine = engine
        self.persister = persister
        self.pid = os.getpid()
        self.users = 1
        self.closed = False
        self._switchboard: Switchboard | None = None
        self._locks: LockTable | None = None

    def sync(self, timeout: float | None = None) -> None:
        """Until everything applied so far is on disk; AckTimeout past `timeout`."""
        if self.persister is not None:
            self.persister.sync(self.options.timeout if timeout is None else timeout)

    def switchboard(self) -> Switchboard:
        """What wakes the watchers; made with the first of them."""
        with _opening:
            if self._switchboard is None:
                from annapy.watch import Switchboard
                self._switchboard = Switchboard(self.engine)
            return self._switchboard

    def locks(self) -> LockTable:
        """The locks by name; made with the first of them."""
        with _opening:
            if self._locks is None:
                from annapy.locks import LockTable
                self._locks = LockTable()
            return self._locks

    def stats(self) -> dict[str, Any]:
        """The engine's figures, and the disk tier's under "disk"."""
        figures: dict[str, Any] = dict(self.engine.stats())
        figures["path"] = self.options.path
        if self.persister is not None:
            figures["disk"] = self.persister.stats()
        return figures

    def backup(self, path: str | os.PathLike[str]) -> None:
        """See Store.backup."""
        if self.persister is None:
            raise ValueError("backup() copies a directory, and this store is in memory: iterate "
                             "over it and write what you need, or open a directory")
        from annapy.persist.backup import backup
        self.persister.sync()
        backup(self.persister._env, os.fspath(path))

    def release(self) -> None:
        """One user less; the last one commits and closes."""
        with _opening:
            self.users -= 1
            if self.users <= 0:
                self.close()

    def close(self) -> None:
        """Commit, let go of the directory, refuse everything from now on. Twice is fine."""
        with _opening:
            if self.closed:
                return
            self.closed = True
            if _hubs.get(self.place) is not None and self.pid == os.getpid():
                del _hubs[self.place]
        try:
            if self.persister is not None and self.pid == os.getpid():
                self.persister.close()
        finally:
            self.engine.close()
            if self._switchboard is not None:
                self._switchboard.ring()

    def __del__(self) -> None:
        if not self.closed:
            self.close()


# --- opening --------------------------------------------------------------------------------------


def open_store(target: str | os.PathLike[str] | None = None, *, share: bool | None = None,
               capacity: int | str | None = None, disk_capacity: int | str | None = None,
               evict: str | None = None, shards: int | None = None,
               commit_every: Duration | None = None, ack: Ack | None = None,
               ttl: Duration | None = None, readonly: bool | None = None,
               allow_pickle: bool | None = None, timeout: Duration | None = None,
               config: str | os.PathLike[str] | None = None) -> Store:
    """Open a store: a directory, a URL, or memory.

    target          a directory (made if missing), `mem://`, `file:///dir`; None: ANNAPY_URL, else
                    memory. Options may stand in a URL's query.
    share           meet other processes in the directory (not in this version)
    capacity        bytes of memory ("512MiB"); default: a quarter of the cgroup's limit, at most
                    1 GiB. A ceiling: what does not fit is demoted to disk, or CapacityError.
    disk_capacity   bytes of disk
    evict           "sieve": a cache that drops what it has no room for; None: nothing is lost
    shards          parts of the store, each with one writer at a time; default: suits the machine
    commit_every    how long a write with ack="memory" may wait for its commit (10 ms)
    ack             what a write waits for when it does not say: "memory" or "disk"
    ttl             how long a value lives when its write does not say; default: for ever
    readonly        read a directory that another process may own
    allow_pickle    pickle what has no safe encoding; only for data that nobody else can write
    timeout         how long a decision or an acknowledgement is waited for (5 s)
    config          a TOML or JSON file of options; else the one that ANNAPY_CONFIG names

    An option given here beats one in the URL, that one the environment's (ANNAPY_CAPACITY, …), that
    one the file's. Capacity, eviction and the like belong to the directory: a later, different
    explicit value is ValueError. A directory that this process has open already is shared with it.
    Raises StoreLocked if another process owns the directory, FormatError for one of a newer
    version. O(1) in the size of the store; blocks for the opening of the files.
    """
    given = {"share": share, "capacity": capacity, "disk_capacity": disk_capacity, "evict": evict,
             "shards": shards, "commit_every": commit_every, "ack": ack, "ttl": ttl,
             "readonly": readonly, "allow_pickle": allow_pickle, "timeout": timeout}
    options = resolve(target, {name: x for name, x in given.items() if x is not None}, config)
    return _store_over(_hub_for(options), options)


def connect(url: str, *, key: str | None = None,
            timeout: Duration = 5.0) -> Store:
    """Connect to a cluster: `anna://host:port`. Not in this version: raises NodeUnavailable."""
    if not isinstance(url, str) or not url.startswith("anna://"):
        raise ValueError(f"connect() takes an anna:// URL, not {url!r:.80}; a directory or mem:// "
                         "is opened with annapy.open()")
    resolve(url, {"timeout": timeout})
    raise AssertionError("resolve() refuses anna://")


def _store_over(hub: Hub, options: Options) -> Store:
    from annapy.options import duration_ms
    from annapy.store import store_class
    ttl_ms = 0 if options.ttl is None else duration_ms(options.ttl)
    return store_class(hub, misses=False)._make(hub, ack=options.ack, ttl_ms=ttl_ms)


def reopen(url: str, misses: bool, prefix: bytes, ack: Ack, ttl_ms: int) -> Store:
    """What a pickled Store becomes where it is loaded."""
    from annapy.store import store_class
    hub = _hub_for(resolve(url, {}))
    return store_class(hub, misses)._make(hub, prefix, ack=ack, ttl_ms=ttl_ms)


def _hub_for(options: Options) -> Hub:
    with _opening:
        if options.path is None:
            hub = Hub(options, object(), _engine(options), None)
            hub.place = id(hub)
        else:
            place = (os.path.realpath(options.path), options.readonly)
            known = _hubs.get(place)
            found = None if known is None else known()
            if found is not None and not found.closed and found.pid == os.getpid():
                agree_with_record(options, _record_of(found.options))
                found.users += 1
                return found
            hub = _open_directory(options, place)
        _hubs[hub.place] = ref(hub)
        _close_at_exit()
        return hub


def _record_of(options: Options) -> dict[str, Any]:
    from annapy.options import DIRECTORY_OPTIONS
    return {name: getattr(options, name) for name in DIRECTORY_OPTIONS if name in options.explicit}


def _open_directory(options: Options, place: object) -> Hub:
    from annapy.persist.persister import Persister
    assert options.path is not None
    persister = Persister.open(options.path, readonly=options.readonly,
                               disk_capacity=options.disk_capacity,
                               commit_every_s=options.commit_every)
    try:
        record = agree_with_record(options, _decode_record(persister.options))
        persister.limit(options.disk_capacity, options.commit_every)
        if options.readonly:
            from annapy.readonly import ReadOnlyEngine
            return Hub(options, place, ReadOnlyEngine(persister), persister)
        engine = _engine(options, persister.identity.actor)
        state = persister.state
        engine.set_backing(persister, live=state.live, cold=state.live > 0, hlc=state.hlc_bound)
        persister.attach(engine.collect, engine)
        encoded = _encode_record(record)
        if encoded != persister.options:
            persister.set_options(encoded)
    except BaseException:
        persister.close()
        raise
    return Hub(options, place, engine, persister)


def _encode_record(record: Mapping[str, Any]) -> bytes:
    """The options that belong to a directory, in the one encoding that the store has."""
    from annapy import values
    return values.encode(dict(sorted(record.items())))


def _decode_record(data: bytes) -> dict[str, Any]:
    if not data:
        return {}
    from annapy import values
    record = values.decode(data)
    if not isinstance(record, dict):
        from annapy.errors import CorruptCellError
        raise CorruptCellError("the directory's record of options is damaged: run `annapy check`")
    return record


def _engine(options: Options, actor: int | None = None) -> Any:
    from annapy._core import face  # noqa: F401  (completes the table of lattices)
    from annapy._core.engine import Engine
    capacity = effective_capacity(options.capacity)
    # One shard has one writer at a time, as the GIL has; without a GIL, one a core.
    parallel = not getattr(sys, "_is_gil_enabled", lambda: True)()
    cores = min(16, os.cpu_count() or 1, capacity >> 24 or 1) if parallel else 1
    shards = options.shards or cores
    if actor is None:
        actor = int.from_bytes(os.urandom(5), "little") << 20 | 1
    return Engine(capacity, shards, actor=actor, evict=options.evict == "sieve")


# --- exit and fork --------------------------------------------------------------------------------


def _close_at_exit() -> None:
    """Commit at the end of the process. Pool workers forked by multiprocessing skip atexit."""
    global _watching_exit
    if _watching_exit:
        return
    _watching_exit = True
    import atexit
    import sys
    atexit.register(close_all)
    os.register_at_fork(after_in_child=_forked)
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, close_all, exitpriority=0)


def close_all() -> None:
    """Close every store that this process has open."""
    for known in list(_hubs.values()):
        hub = known()
        if hub is not None and hub.pid == os.getpid():
            hub.close()


def _forked() -> None:
    """In a child: locks and watchers were the parent's, and so are its directories."""
    global _opening, _watching_exit
    _opening = RLock()
    _watching_exit = False
    for known in list(_hubs.values()):
        hub = known()
        if hub is not None:
            hub._locks = hub._switchboard = None
            if hub.persister is None:
                hub.pid = os.getpid()
    _hubs.clear()
