"""Batches: several writes that readers and crashes see whole or not at all.

Owns    Batch, the list of operations between `with s.batch()` and the end of its block.
Threads a Batch belongs to the thread that made it.

Invariants
    nothing is applied before the block ends; an exception that leaves it discards everything
    each operation was checked (key, value, ttl) when it was given, so only the owner's own
    refusals (another type, overflow, capacity) are left for the end, and then nothing is applied
"""
from __future__ import annotations

from annapy._arguments import i64, label_bytes, mergeable
from annapy._codes import (
    NAMESPACE_USER,
    OP_ADD,
    OP_MERGE,
    OP_NONE,
    OP_SET,
    REQ_DELETE,
    REQ_TOUCH,
    TAG_GCOUNTER,
    TAG_LWW,
    TAG_PNCOUNTER,
    TAG_USER,
    TTL_KEEP,
    TTL_NONE,
)
from annapy.factories import Factories

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timedelta
    from typing import Any

    from typing_extensions import Self

    from annapy.lattice.base import Lattice
    from annapy.store import Store

    Key = str | bytes
    Ack = str | int
    Duration = float | str | timedelta

__all__ = ["OPERATIONS_MAX", "Batch"]

OPERATIONS_MAX = 1 << 20


class Batch(Factories):
    """The writes of one block. Reads through it show the store with these writes applied.

    Handles made from a batch (`b.counter("n")`) write into it. Writes that return a decision
    (`add`, `pop`, `incr`, …) have none to return before the end, and are not here.
    """

    def __init__(self, store: Store, ack: Ack | None) -> None:
        self._store = store
        self._ack = ack
        self._operations: list[tuple[Any, ...]] = []
        self._counts: list[Any] = []     # whose += count as joined when the batch is applied
        self._state = "new"

    def __enter__(self) -> Self:
        if self._state != "new":
            raise RuntimeError("a batch is entered once: make another with s.batch()")
        self._state = "open"
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._state = "over"
        operations, self._operations = self._operations, []
        if kind is None and operations:
            self._store._apply_batch(operations, self._ack)
            for count in self._counts:
                count.joined()

    def __len__(self) -> int:
        """How many operations are waiting."""
        return len(self._operations)

    # --- the scope of its handles ----------------------------------------------------------------

    def _apply(self, key: bytes, code: int, tag: int, arg: bytes = b"", *, flags: int = 0,
               ttl_ms: int = TTL_KEEP, label: bytes | None = None, ack: Ack | None = None,
               op_id: bytes | None = None) -> tuple[bool, None, int]:
        if self._state != "open":
            raise RuntimeError("a batch is written inside its `with` block")
        if op_id is not None:
            raise ValueError("a batch does not take op_id= on single operations: it is one "
                             "operation itself")
        if ack is not None:
            raise ValueError("a batch is acknowledged as a whole: give ack= to s.batch()")
        if len(self._operations) >= OPERATIONS_MAX:
            raise ValueError(f"a batch holds at most {OPERATIONS_MAX} operations: split it")
        there = self._read(key) is not None if flags & REQ_DELETE else True
        self._operations.append((key, code, tag, arg, NAMESPACE_USER, ttl_ms, label, flags))
        return there, None, 0

    def _read(self, key: bytes) -> tuple[int, bytes, int, int] | None:
        """The store's cell with this batch's operations on the key applied, in order."""
        found = self._store._read(key)
        for at, code, tag, arg, _, _, _, flags in self._operations:
            if at != key:
                continue
            if flags & REQ_DELETE:
                found = None
            elif not flags & REQ_TOUCH:
                found = _applied(found, code, tag, arg)
        return found

    def _key(self, k: Key) -> bytes:
        return self._store._key(k)

    def _user_key(self, key: bytes) -> str:
        return self._store._user_key(key)

    def _encode(self, value: Any) -> bytes:
        return self._store._encode(value)

    def _decode(self, data: bytes) -> Any:
        return self._store._decode(data)

    def _ttl_to_ms(self, ttl: Duration | None) -> int:
        return self._store._ttl_to_ms(ttl)

    # --- what a user writes -----------------------------------------------------------------------

    def __setitem__(self, k: Key, v: Any) -> None:
        self.set(k, v)

    def __getitem__(self, k: Key) -> Any:
        key = self._key(k)
        found = self._read(key)
        if found is None:
            raise KeyError(k)
        return self._store._present(key, found[0], found[1])

    def __contains__(self, k: Key) -> bool:
        return self._read(self._key(k)) is not None

    def __delitem__(self, k: Key) -> None:
        if not self.delete(k):
            raise KeyError(k)

    def get(self, k: Key, default: Any = None) -> Any:
        """The value as this batch would leave it, or `default`."""
        key = self._key(k)
        found = self._read(key)
        return default if found is None else self._store._present(key, found[0], found[1])

    def set(self, k: Key, v: Any, *, ttl: Duration | None = None, tag: str | None = None,
            ) -> None:
        """As `s.set`, when the batch ends."""
        key = self._key(k)
        if hasattr(v, "comes_from") and v.comes_from(self._store.engine, key):
            found = self._read(key)
            grows = found is not None and found[0] == TAG_GCOUNTER
            lattice = TAG_GCOUNTER if grows else TAG_PNCOUNTER
            if not any(v is known for known in self._counts):
                self._counts.append(v)
                self._apply(key, OP_ADD, lattice, i64(v.pending()))
            return
        self._apply(key, OP_SET, TAG_LWW, self._encode(v), ttl_ms=self._ttl_to_ms(ttl),
                    label=label_bytes(tag))

    def set_many(self, mapping: Mapping[Key, Any] | Iterable[tuple[Key, Any]], *,
                 ttl: Duration | None = None, tag: str | None = None) -> None:
        """As `s.set_many`, when the batch ends."""
        pairs = mapping.items() if hasattr(mapping, "items") else mapping
        for k, v in pairs:
            self.set(k, v, ttl=ttl, tag=tag)

    def delete(self, k: Key) -> bool:
        """Remove `k` when the batch ends; whether it is there now."""
        return self._apply(self._key(k), OP_NONE, 0, flags=REQ_DELETE)[0]

    def merge(self, k: Key, lattice_value: Lattice) -> None:
        """As `s.merge`, when the batch ends."""
        tag = mergeable(k, lattice_value)
        if tag == TAG_USER and not hasattr(lattice_value, "joined"):
            self.lattice(k, type(lattice_value)).merge(lattice_value)
        else:
            self._apply(self._key(k), OP_MERGE, tag, bytes(lattice_value))

    def touch(self, k: Key, ttl: Duration | None = None) -> None:
        """As `s.touch`, when the batch ends."""
        ttl_ms = TTL_NONE if ttl is None else self._ttl_to_ms(ttl)
        self._apply(self._key(k), OP_NONE, 0, flags=REQ_TOUCH, ttl_ms=ttl_ms)

    def __repr__(self) -> str:
        return f"<batch of {len(self._operations)} operations on {self._store!r}, {self._state}>"


def _applied(found: tuple[int, bytes, int, int] | None, code: int, tag: int, arg: bytes,
             ) -> tuple[int, bytes, int, int]:
    """What one operation makes of a cell. The stamp and actor are stand-ins: only values show."""
    from annapy._core import face
    if found is not None and found[0] != tag:
        return found    # the owner will refuse the batch; until then nothing has changed
    state = b"" if found is None else found[1]
    if code == OP_MERGE:
        delta = face.cell_split(arg)[1]
    else:
        delta = face.mutate(tag, state, code, arg, 1, _LATER)
    return tag, face.join(tag, state, delta), 0, 0


# Later than every stamp in the store, so that an assignment shows.
_LATER = (1 << 63, 1, 0)
