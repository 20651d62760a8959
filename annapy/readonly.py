"""Reading a directory that another process may own: every look goes to the last commit.

Owns    ReadOnlyEngine, which answers for an Engine, and ReadOnlyStore, which asks it.
Threads any; an LMDB read transaction per look, nothing is kept in between.

Invariants
    nothing is written, locked or cached: what the owner commits is seen by the next look
    every write raises ReadOnlyError
"""
from __future__ import annotations

from time import time_ns

from annapy._codes import NAMESPACE_USER, TAG_LWW
from annapy.store import Misses, Store
from annapy.views import ABSENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Found = tuple[int, bytes, int, int]

__all__ = ["ReadOnlyEngine", "ReadOnlyStore"]

_CHECKSUM_SIZE = 4
_SNAPSHOT_ROUNDS_MAX = 100


class ReadOnlyEngine:
    """The part of Engine that reads, over a persister that was opened with readonly=True."""

    __slots__ = ("_persister", "closed", "on_event")

    def __init__(self, persister: Any) -> None:
        self._persister = persister
        self.closed = False
        self.on_event = None

    def _check(self) -> None:
        if self.closed:
            from annapy.errors import StoreClosed
            raise StoreClosed("the store was closed; open it again")

    def read_cell(self, key: bytes, ns: int = NAMESPACE_USER) -> bytes | None:
        """The whole cell as of the last commit, verified; None if missing or expired."""
        self._check()
        stored = ns.to_bytes(4, "big") + key
        record = self._persister.load(stored)
        if record is None:
            return None
        from annapy._core.stored import WHOLE, inspect
        state, _, deadline_ms, empty = inspect(stored, record)
        if state != WHOLE:
            from annapy.errors import CorruptCellError, shorten_key
            raise CorruptCellError(f"the stored cell of key {shorten_key(key)} is damaged: run "
                                   "`annapy check` and restore a backup", key=key)
        if empty or 0 < deadline_ms <= time_ns() // 1_000_000:
            return None
        return bytes(record[_CHECKSUM_SIZE:])

    def read(self, key: bytes, ns: int = NAMESPACE_USER) -> Found | None:
        """(tag, state, deadline_ms, version); the version is the cell's hash in this process."""
        cell = self.read_cell(key, ns)
        if cell is None:
            return None
        from annapy._core import face
        tag, state, _, deadline_ms = face.cell_split(cell)[:4]
        return tag, state, deadline_ms, hash(cell) & 0xFFFF_FFFF_FFFF_FFFF

    def read_many(self, keys: list[bytes], ns: int = NAMESPACE_USER) -> list[Found | None]:
        """Cells of one moment: read twice with the same versions, they stood together between."""
        cells = [self.read(key, ns) for key in keys]
        for _ in range(_SNAPSHOT_ROUNDS_MAX):
            again = [self.read(key, ns) for key in keys]
            if again == cells:
                return again
            cells = again
        from annapy.errors import Backpressure
        raise Backpressure(f"get_many(snapshot=True): {len(keys)} keys changed faster than they "
                           "can be read together; ask for fewer, or without snapshot")

    def keys(self, *_: Any, **__: Any) -> list[bytes]:
        """Nothing is resident: the disk tier has every key."""
        self._check()
        return []

    def live(self) -> int:
        """How many keys the last commit counted."""
        self._check()
        return int(self._persister.count())

    def info(self, key: bytes, ns: int = NAMESPACE_USER) -> dict[str, Any] | None:
        """What is known of a live key, or None."""
        cell = self.read_cell(key, ns)
        if cell is None:
            return None
        from annapy._core import face
        tag, _, generation, deadline_ms = face.cell_split(cell)[:4]
        return {"tag": tag, "kind": face.KINDS.get(tag, f"tag {tag}"), "bytes": len(cell),
                "deadline_ms": deadline_ms, "generation": generation[0] if generation else 0,
                "version": 0, "label": None}

    def stats(self) -> dict[str, Any]:
        """As Engine.stats, with what a reader knows."""
        self._check()
        return {"live": self.live(), "resident": 0, "heap_bytes": 0, "index_bytes": 0, "dirty": 0}

    def close(self) -> None:
        """Refuse everything from now on."""
        self.closed = True

    def apply(self, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        self._check()
        from annapy.errors import ReadOnlyError
        raise ReadOnlyError("the store was opened with readonly=True: open it without, or write "
                            "in the process that owns it")

    apply_batch = apply

    def watch_open(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: events come from the process that owns the store."""
        self._check()
        from annapy.errors import ReadOnlyError
        raise ReadOnlyError("a store opened with readonly=True has no events to watch: watch in "
                            "the process that owns it")


class ReadOnlyStore(Store):
    """A Store over a ReadOnlyEngine: the same methods, without the compiled short cuts."""

    __slots__ = ()

    def _look(self, k: Any) -> Any:
        key = self._key(k)
        found = self.engine.read(key)
        return ABSENT if found is None else self._present(key, found[0], found[1])

    def get(self, k: Any, default: Any = None, *, copy: bool = False, device: str | None = None,
            stream: Any = None) -> Any:
        """As `Store.get`, from the last commit."""
        value = self._look(k)
        if value is ABSENT:
            return default
        return self._placed(value, copy, device, stream)

    def __getitem__(self, k: Any) -> Any:
        value = self._look(k)
        if value is ABSENT:
            raise KeyError(k)
        return value

    def __contains__(self, k: Any) -> bool:
        return self.engine.read(self._key(k)) is not None

    def set(self, k: Any, v: Any, **_: Any) -> None:
        """Refused with ReadOnlyError."""
        self._key(k)
        self.engine.apply(b"", 0, TAG_LWW)

    __setitem__ = set


class ReadOnlyMissStore(Misses, ReadOnlyStore):
    """The same under `options(errors="miss")`."""

    __slots__ = ()
