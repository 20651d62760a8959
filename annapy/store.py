"""Store: the mapping that users hold, over one engine.

Owns    the public methods of api.md; key and acknowledgement checks; the views made by `namespace`
        and `options`, which share the engine of the store they were made from.
Threads any number may use one Store, or several over one engine. Nothing here is held while the
        engine waits.

Invariants
    every write is checked (key, value, ttl, ack) before anything is applied
    a view is closed  =>  only that view; the opened store is closed  =>  every view of it
    iteration never raises on change, and yields a key that is present throughout exactly once
"""
from __future__ import annotations

from _collections_abc import Mapping, MutableMapping
from itertools import islice
from time import time

from annapy._arguments import (
    Pin,
    i64,
    key_bytes,
    label_bytes,
    mergeable,
    op_id_bytes,
    utf8,
)
from annapy._codes import (
    OP_ADD,
    OP_MERGE,
    OP_NONE,
    OP_SET,
    REQ_DELETE,
    REQ_IF_ABSENT,
    REQ_IF_PRESENT,
    REQ_IF_VERSION,
    REQ_RETURN_NEW,
    REQ_RETURN_OLD,
    REQ_TOUCH,
    STAMP_SIZE,
    TAG_GCOUNTER,
    TAG_LWW,
    TAG_PNCOUNTER,
    TAG_USER,
    TTL_KEEP,
    TTL_NONE,
)
from annapy._store import StoreCore
from annapy.factories import Factories
from annapy.views import ABSENT, Items, Keys, Values, same

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        ItemsView,
        Iterable,
        Iterator,
        KeysView,
        ValuesView,
    )
    from datetime import timedelta
    from os import PathLike
    from typing import Any

    from typing_extensions import Self

    from annapy.batch import Batch
    from annapy.hub import Hub
    from annapy.lattice.base import Lattice
    from annapy.locks import Lock
    from annapy.watch import Watch

    Key = str | bytes
    Ack = str | int
    Duration = float | str | timedelta

__all__ = ["MissStore", "Misses", "Store", "store_class"]

_CAS_ROUNDS_MAX = 1000


class Store(StoreCore, Factories):
    """A `MutableMapping[str, Any]` whose values are lattices. Made by `annapy.open`.

    Keys are str or bytes of up to 4 KiB in UTF-8, equal when equal in UTF-8, and come back as str.
    A write without `ack` returns once it is applied in memory; with `ack="disk"` once it is
    committed and synced, at most `timeout` later (else `AckTimeout`: applied, not yet confirmed).
    Any thread may use a Store; each single operation is atomic. Comparison is by contents.

    >>> import annapy
    >>> with annapy.open() as s:
    ...     s["user:42"] = {"age": 31}
    ...     s.counter("hits").add(3)
    ...     s["user:42"], s["hits"]
    ({'age': 31}, 3)
    """

    __slots__ = ("__dict__",)

    __hash__ = None  # type: ignore[assignment]

    _hub: Hub
    _closed = False

    # --- what everything below stands on --------------------------------------------------------

    @classmethod
    def _make(cls, hub: Hub, prefix: bytes = b"", *, ack: Ack = "memory",
              ttl_ms: int = TTL_NONE) -> Store:
        store = cls.__new__(cls)
        store._hub = hub
        store.engine = hub.engine
        store._prefix = prefix
        store._ack = ack
        store._ttl_ms = ttl_ms
        store._allow_pickle = hub.options.allow_pickle
        return store

    def _key(self, k: object) -> bytes:
        return self._prefix + key_bytes(k, len(self._prefix))

    def _user_key(self, key: bytes) -> str:
        return key[len(self._prefix):].decode("utf-8", "surrogateescape")

    def _read(self, key: bytes) -> tuple[int, bytes, int, int] | None:
        return self.engine.read(key)  # type: ignore[no-any-return]

    def _apply(self, key: bytes, code: int, tag: int, arg: bytes = b"", *, flags: int = 0,
               ttl_ms: int = TTL_KEEP, label: bytes | None = None, expect: int = 0,
               ack: Ack | None = None, op_id: bytes | None = None,
               ) -> tuple[bool, bytes | None, int]:
        """One operation on one key; the only way to the engine for every write but batches."""
        durable = self._durable(ack)
        done = self.engine.apply(key, code, tag, arg, flags=flags, ttl_ms=ttl_ms, label=label,
                                 expect=expect, op_id=op_id)
        if durable:
            self._hub.sync()
        return done  # type: ignore[no-any-return]

    def _apply_batch(self, operations: list[tuple[Any, ...]], ack: Ack | None) -> None:
        """All or nothing; see Batch."""
        durable = self._durable(ack)
        self.engine.apply_batch(operations)
        if durable:
            self._hub.sync()

    def _durable(self, ack: Ack | None) -> bool:
        """Whether this acknowledgement waits for the disk; ValueError if it cannot be given."""
        if ack is None:
            ack = self._ack
        if ack == "memory":
            return False
        from annapy.options import check_ack, parse_ack
        check_ack(parse_ack(ack), self._hub.persister is not None)
        return True

    def _encode(self, value: object) -> bytes:
        from annapy import values
        return values.encode(value, self._allow_pickle)

    def _decode(self, data: bytes) -> Any:
        from annapy import values
        return values.decode(data, self._allow_pickle)

    def _present_other(self, key: bytes, tag: int, state: bytes) -> Any:
        """What `s[k]` gives for a cell that is not a register."""
        if tag in (TAG_PNCOUNTER, TAG_GCOUNTER):
            from annapy._core.face import total
            from annapy.counting import Count
            return Count.read(total(tag, state), self.engine, key)
        from annapy.containers import present
        return present(self._decode, tag, state)

    def _present_cell(self, key: bytes, cell: bytes) -> Any:
        from annapy._core import face
        tag, state = face.cell_split(cell)[:2]
        return self._present(key, tag, state)

    def _placed(self, value: Any, copy: bool, device: str | None,
                stream: object) -> Any:
        if device is not None and device != "cpu":
            from annapy.errors import DeviceUnavailable
            raise DeviceUnavailable(f"device={device!r}: this version of annapy keeps values in "
                                    "host memory only; use device='cpu' or leave it out")
        if copy and type(value).__name__ == "ndarray":
            return value.copy()
        return value

    def _ttl_to_ms(self, ttl: Duration | None) -> int:
        if ttl is None:
            return self._ttl_ms
        from annapy.options import duration_ms
        return duration_ms(ttl)

    # --- single keys ------------------------------------------------------------------------------

    def _set_slow(self, k: Key, v: Any, ttl: Duration | None, tag: str | None, ack: Ack | None,
                  op_id: str | bytes | None) -> None:
        key = self._key(k)
        if hasattr(v, "comes_from") and v.comes_from(self.engine, key) and self._is_counter(key):
            v.join(lambda amount: self._add_to_counter(key, amount, ack, op_id))
            return
        self._apply(key, OP_SET, TAG_LWW, self._encode(v), ttl_ms=self._ttl_to_ms(ttl),
                    label=label_bytes(tag), ack=ack, op_id=op_id_bytes(op_id))

    def _is_counter(self, key: bytes) -> bool:
        found = self._read(key)
        return found is None or found[0] in (TAG_PNCOUNTER, TAG_GCOUNTER)

    def _add_to_counter(self, key: bytes, amount: int, ack: Ack | None = None,
                        op_id: str | bytes | None = None, flags: int = 0) -> bytes | None:
        found = self._read(key)
        tag = found[0] if found is not None and found[0] == TAG_GCOUNTER else TAG_PNCOUNTER
        _, cell, _ = self._apply(key, OP_ADD, tag, i64(amount), flags=flags, ack=ack,
                                 op_id=op_id_bytes(op_id))
        return cell

    def add(self, k: Key, v: Any, *, ttl: Duration | None = None, tag: str | None = None,
            ack: Ack | None = None, op_id: str | bytes | None = None) -> bool:
        """Set `k` only if it is missing; whether it was set. Atomic."""
        applied, _, _ = self._apply(self._key(k), OP_SET, TAG_LWW, self._encode(v),
                                    flags=REQ_IF_ABSENT, ttl_ms=self._ttl_to_ms(ttl),
                                    label=label_bytes(tag), ack=ack, op_id=op_id_bytes(op_id))
        return applied

    def cas(self, k: Key, old: Any, new: Any, *, ttl: Duration | None = None,
            ack: Ack | None = None) -> bool:
        """Set register `k` to `new` if it now equals `old`; whether it was set. Atomic.

        A missing key is False: `add` creates. Without `ttl` the new value is permanent.
        """
        key = self._key(k)
        encoded = self._encode(new)
        ttl_ms = self._ttl_to_ms(ttl)
        for _ in range(_CAS_ROUNDS_MAX):
            found = self._read(key)
            if found is None or not same(self._present(key, found[0], found[1]), old):
                return False
            applied, _, _ = self._apply(key, OP_SET, TAG_LWW, encoded, flags=REQ_IF_VERSION,
                                        expect=found[3], ttl_ms=ttl_ms, ack=ack)
            if applied:
                return True
        from annapy.errors import Backpressure
        raise Backpressure(f"cas({self._shown(key)}): the key changed {_CAS_ROUNDS_MAX} times "
                           "between the look and the write; retry, or use a counter or a set")

    def delete(self, k: Key, *, ack: Ack | None = None, op_id: str | bytes | None = None) -> bool:
        """Remove `k`, whatever its kind; whether it was there. Atomic."""
        applied, _, _ = self._apply(self._key(k), OP_NONE, 0, flags=REQ_DELETE, ack=ack,
                                    op_id=op_id_bytes(op_id))
        return applied

    def pop(self, k: Key, default: Any = ABSENT, /, *, ack: Ack | None = None) -> Any:
        """Remove `k` and return its value, or `default`; KeyError without one. Atomic."""
        key = self._key(k)
        applied, cell, _ = self._apply(key, OP_NONE, 0, flags=REQ_DELETE | REQ_RETURN_OLD, ack=ack)
        if applied and cell is not None:
            return self._present_cell(key, cell)
        if default is ABSENT:
            raise KeyError(k)
        return default

    def popitem(self) -> tuple[str, Any]:
        """Remove some key and return (key, value); KeyError if the store is empty.

        Each removal is atomic: of many callers each gets another item. Amortised O(1).
        """
        candidates = self.__dict__.setdefault("_popping", [])
        while True:
            try:
                key = candidates.pop()
            except IndexError:
                fresh = list(islice(self, max(1024, len(self) // 16)))
                if not fresh:
                    raise KeyError("popitem(): the store is empty") from None
                candidates.extend(fresh)
                continue
            value = self.pop(key, candidates)      # itself: no value of a store
            if value is not candidates:
                return key, value

    def setdefault(self, k: Key, default: Any = None, /, *, ttl: Duration | None = None,
                   ack: Ack | None = None) -> Any:
        """The value of `k`, set to `default` first if the key is missing. Atomic."""
        key = self._key(k)
        encoded = self._encode(default)
        while True:
            found = self._read(key)
            if found is not None:
                return self._present(key, found[0], found[1])
            applied, _, _ = self._apply(key, OP_SET, TAG_LWW, encoded, flags=REQ_IF_ABSENT,
                                        ttl_ms=self._ttl_to_ms(ttl), ack=ack)
            if applied:
                return self._present(key, TAG_LWW, bytes(STAMP_SIZE) + encoded)

    def incr(self, k: Key, n: int = 1, *, ack: Ack | None = None,
             op_id: str | bytes | None = None) -> int:
        """Add `n` to counter `k` (made at 0) and return the sum. Atomic.

        Raises OverflowError past 64 bits, before anything is added.
        """
        cell = self._add_to_counter(self._key(k), n, ack, op_id, REQ_RETURN_NEW)
        assert cell is not None
        return int(self._present_cell(self._key(k), cell))

    def touch(self, k: Key, ttl: Duration | None = None, *, ack: Ack | None = None) -> bool:
        """Give `k` a new time to live from now on; None: permanent. Whether the key is there."""
        ttl_ms = TTL_NONE if ttl is None else self._ttl_to_ms(ttl)
        applied, _, _ = self._apply(self._key(k), OP_NONE, 0, flags=REQ_TOUCH | REQ_IF_PRESENT,
                                    ttl_ms=ttl_ms, ack=ack)
        return applied

    def ttl(self, k: Key) -> float | None:
        """Seconds until `k` expires; None: permanent. KeyError if missing."""
        found = self._read(self._key(k))
        if found is None:
            raise KeyError(k)
        if not found[2]:
            return None
        return max(0.0, found[2] / 1000.0 - time())

    def kind(self, k: Key) -> str | None:
        """The kind of lattice under `k` ("register", "counter", "orset", …); None if missing."""
        found = self._read(self._key(k))
        if found is None:
            return None
        from annapy.lattice.base import Lattice
        return Lattice.from_state(found[0], found[1]).kind

    def read(self, k: Key) -> Lattice | None:
        """The lattice value under `k`, immutable; None if missing."""
        found = self._read(self._key(k))
        if found is None:
            return None
        from annapy.lattice.base import Lattice
        value = Lattice.from_state(found[0], found[1])
        return getattr(value, "joined", value)     # a user's type: not what the engine keeps of it

    def merge(self, k: Key, lattice_value: Lattice, *, ack: Ack | None = None,
              op_id: str | bytes | None = None) -> None:
        """Join a lattice value into `k` (made if missing). Idempotent, atomic.

        Raises LatticeTypeError if the key holds another type, TypeError for anything that is not a
        lattice value.
        """
        key = self._key(k)
        tag = mergeable(k, lattice_value)
        if tag == TAG_USER and not hasattr(lattice_value, "joined"):
            self.lattice(k, type(lattice_value)).merge(lattice_value, ack=ack, op_id=op_id)
            return
        self._apply(key, OP_MERGE, tag, bytes(lattice_value), ack=ack, op_id=op_id_bytes(op_id))

    def pin(self, k: Key) -> Pin:
        """`with s.pin(k) as view`: the bytes of an array or bytes value, as a memoryview.

        No copy is made of an array. The view is read-only and stays valid after the block.
        KeyError if missing, TypeError for a value without a buffer.
        """
        return Pin(self, k)

    # --- the mapping ------------------------------------------------------------------------------

    def __len__(self) -> int:
        if not self._prefix:
            return self.engine.live()  # type: ignore[no-any-return]
        return sum(1 for _ in self._iterate_keys(""))

    def __bool__(self) -> bool:
        if not self._prefix:
            return bool(self.engine.live())
        return any(True for _ in self._iterate_keys(""))

    def __iter__(self) -> Iterator[str]:
        return self._iterate_keys("")

    def _iterate_keys(self, prefix: Key) -> Iterator[str]:
        from annapy.scan import live_keys
        full = self._prefix + utf8(prefix)
        cut = len(self._prefix)
        for key in live_keys(self, full):
            yield key[cut:].decode("utf-8", "surrogateescape")

    def keys(self, prefix: Key = "") -> KeysView[str]:
        """The live keys, or those that begin with `prefix`: a set-like view, in no order."""
        self._key(prefix)
        return Keys(self, prefix)

    def items(self) -> ItemsView[str, Any]:
        """A set-like view of (key, value), in no order; what goes meanwhile is left out."""
        return Items(self)

    def values(self) -> ValuesView[Any]:
        """A view of the values, in no order; what goes meanwhile is left out."""
        return Values(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        mine = dict(self.items())
        theirs = dict(other.items())
        return mine.keys() == theirs.keys() and all(same(v, theirs[k]) for k, v in mine.items())

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(self.items()) | dict(other)

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(other) | dict(self.items())

    def __ior__(self, other: Mapping[str, Any]) -> Self:
        self.update(other)
        return self

    # --- many keys --------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[Key], *, out: dict[Any, Any] | None = None,
                 snapshot: bool = False) -> dict[Any, Any]:
        """{key: value} for those of `keys` that are there, under the caller's own key objects.

        `out`: a dict to fill and return. `snapshot=True`: all values are of one moment, so that a
        batch is seen whole or not at all.
        """
        result: dict[Any, Any] = {} if out is None else out
        if not snapshot:
            for k in keys:
                value = self.get(k, ABSENT)
                if value is not ABSENT:
                    result[k] = value
            return result
        wanted = [(k, self._key(k)) for k in keys]
        found = self.engine.read_many([key for _, key in wanted])
        for (k, key), cell in zip(wanted, found, strict=True):
            if cell is not None:
                result[k] = self._present(key, cell[0], cell[1])
        return result

    def set_many(self, mapping: Mapping[Key, Any] | Iterable[tuple[Key, Any]], *,
                 ttl: Duration | None = None, tag: str | None = None, ack: Ack | None = None,
                 op_id: str | bytes | None = None) -> None:
        """Set every item, acknowledged once at the end. Each is atomic; all or none: `batch`."""
        durable = self._durable(ack)
        pairs = mapping.items() if isinstance(mapping, Mapping) else mapping
        if tag is None and op_id is None:
            self._set_pairs(pairs, self._ttl_to_ms(ttl))
        else:
            for k, v in pairs:
                self.set(k, v, ttl=ttl, tag=tag, ack="memory", op_id=op_id)
        if durable:
            self._hub.sync()

    def delete_many(self, keys: Iterable[Key], *, ack: Ack | None = None) -> int:
        """Remove each of `keys`, acknowledged once at the end; how many were there."""
        durable = self._durable(ack)
        count = sum(self.delete(k, ack="memory") for k in keys)
        if durable:
            self._hub.sync()
        return count

    def update(self, other: Any = (), /, **items: Any) -> None:
        """As `dict.update`: from a mapping, an object with keys(), pairs, and keywords."""
        if isinstance(other, Mapping):
            self.set_many(other)
        elif hasattr(other, "keys"):
            self.set_many((k, other[k]) for k in other.keys())  # noqa: SIM118  (it may not iterate)
        else:
            self.set_many(other)
        if items:
            self.set_many(list(items.items()))

    def clear(self, prefix: Key = "", *, ack: Ack | None = None) -> None:
        """Remove every key, or those that begin with `prefix`. Keys set meanwhile may stay."""
        self.delete_many(list(self.keys(prefix)), ack=ack)

    def evict(self, tag: str) -> int:
        """Remove every key whose latest write carried this `tag=`; how many there were. O(keys)."""
        from annapy.scan import keys_with_label
        label = label_bytes(tag)
        if label is None:
            raise TypeError("evict() needs the tag that was given to set(…, tag=…)")
        return sum(self._apply(key, OP_NONE, 0, flags=REQ_DELETE)[0]
                   for key in list(keys_with_label(self, self._prefix, label)))

    def scan(self, prefix: Key = "", *, start: Key | None = None, stop: Key | None = None,
             reverse: bool = False, limit: int | None = None) -> Iterator[tuple[str, Any]]:
        """(key, value) sorted by key, for keys that begin with `prefix` and start <= key < stop.

        Order is that of the keys' UTF-8 bytes, from the top with `reverse`; at most `limit` items.
        Weakly consistent: what changes meanwhile may be seen old or new.
        """
        from annapy.scan import sorted_keys
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise TypeError(f"limit must be an int, not {type(limit).__name__}")
        if limit is not None and limit < 0:
            raise ValueError(f"limit={limit} must not be negative; leave it out for no limit")
        self._key(prefix)
        low = None if start is None else self._key(start)
        high = None if stop is None else self._key(stop)
        keys = sorted_keys(self, self._prefix + utf8(prefix), low, high, reverse)
        return self._scan(keys, limit)

    def _scan(self, keys: Iterator[bytes], limit: int | None) -> Iterator[tuple[str, Any]]:
        if limit == 0:
            return
        count = 0
        for key in keys:
            found = self._read(key)
            if found is None:
                continue
            yield self._user_key(key), self._present(key, found[0], found[1])
            count += 1
            if count == limit:
                return

    # --- views of the store -----------------------------------------------------------------------

    def namespace(self, prefix: Key) -> Store:
        """The keys that begin with `prefix`, as a store of their own that does not show it."""
        self._key(prefix)
        return self._derived(prefix=self._prefix + utf8(prefix))

    def options(self, *, ack: Ack | None = None, ttl: Duration | None = None,
                errors: str | None = None) -> Store:
        """The same store with other defaults for `ack` and `ttl`.

        `errors="miss"`: what cannot be read (damaged, timed out, no owner) is missing, as in a
        cache; `errors="raise"` takes that back.
        """
        if ack is not None:
            self._durable(ack)
        if errors not in (None, "miss", "raise"):
            raise ValueError(f"errors={errors!r} is not known: 'miss' or 'raise'")
        cls = type(self) if errors is None else store_class(self._hub, errors == "miss")
        return self._derived(cls, ack=ack, ttl_ms=None if ttl is None else self._ttl_to_ms(ttl))

    def _derived(self, cls: type[Store] | None = None, *, prefix: bytes | None = None,
                 ack: Ack | None = None, ttl_ms: int | None = None) -> Store:
        self._check_open()
        view = (cls or type(self))._make(
            self._hub, self._prefix if prefix is None else prefix,
            ack=self._ack if ack is None else ack,
            ttl_ms=self._ttl_ms if ttl_ms is None else ttl_ms,
        )
        view.__dict__["_view_of"] = self.__dict__.get("_view_of", self)
        return view

    # --- what reaches further than one key --------------------------------------------------------

    def conflicts(self, prefix: Key = "") -> list[tuple[str, Lattice]]:
        """(key, lattice value) that lost against a concurrent creation with another type.

        Such can only come from other nodes: in a private store there are none.
        """
        self._key(prefix)
        self._check_open()
        return []

    def watch(self, prefix: Key = "", timeout: Duration | None = None) -> Watch:
        """`with s.watch("user:") as events: for event in events: …`, in this process.

        `timeout`: iteration ends after that long without an event. Bounded: whoever is too slow
        gets `Event(kind="gap")` for what was overwritten, and stalls nobody.
        """
        from annapy.options import duration
        from annapy.watch import Watch
        self._key(prefix)
        self._check_open()
        return Watch(self, prefix, None if timeout is None else duration(timeout, "timeout"))

    def batch(self, ack: Ack | None = None) -> Batch:
        """`with s.batch() as b: b[k] = v; b.counter("n").add(1)`: all of it or nothing.

        Applied when the block ends, for readers and after a crash; an exception discards it.
        """
        from annapy.batch import Batch
        self._durable(ack)
        self._check_open()
        return Batch(self, ack)

    def lock(self, name: str, *, ttl: Duration | None = None,
             timeout: Duration | None = None) -> Lock:
        """`with s.lock("nightly", ttl="10m")`: one holder at a time among this process's threads.

        `ttl`: after that long others may take it over. `timeout`: how long to wait for it, then
        TimeoutError; None: without a limit. Taking a lock that one holds is a RuntimeError.
        """
        from annapy.locks import Lock
        from annapy.options import duration
        self._check_open()
        return Lock(self._hub, self._prefix + utf8(name),
                    None if ttl is None else duration(ttl, "ttl"),
                    None if timeout is None else duration(timeout, "timeout"))

    def memoize(self, ttl: Duration | None = None, key: str | None = None, *, lease: bool = False,
                stale: Duration | None = None, ignore: Iterable[str] = (),
                ) -> Callable[[Any], Any]:
        """Decorate a function, plain or async, to keep its results in this store.

        See `annapy.memoize`. `@s.memoize("10m", key="user:{uid}")`.
        """
        from annapy.memoize import memoize
        return memoize(self, ttl, key, lease=lease, stale=stale, ignore=ignore)

    def warm(self, source: Key | Iterable[Key] = "", *, limit: int | None = None) -> int:
        """Bring cells into memory: a prefix, some keys, or all cells of the store at a URL.

        Returns how many there were. From a URL (`file:///other`) cells are joined into this store.
        """
        from annapy.scan import warm
        return warm(self, source, limit)

    def flush(self, timeout: Duration | None = None) -> None:
        """Wait until everything written so far is on disk; in memory only: nothing to do.

        At most `timeout` (the store's own without one), then AckTimeout.
        """
        from annapy.options import duration
        self._check_open()
        self._hub.sync(None if timeout is None else duration(timeout, "timeout"))

    def stats(self) -> dict[str, Any]:
        """Counts and sizes of the whole store, in plain numbers; costs no look at any key."""
        self._check_open()
        return self._hub.stats()

    def info(self, k: Key) -> dict[str, Any]:
        """What is known about one key: kind, bytes, version, deadline. KeyError if missing."""
        key = self._key(k)
        kind = self.kind(k)
        if kind is None:
            raise KeyError(k)
        return {"key": self._user_key(key), "kind": kind, "ttl": self.ttl(k),
                **self.engine.info(key)}

    def backup(self, path: str | PathLike[str]) -> None:
        """Copy the store, as of now, to the new file `path`, while it is in use.

        ValueError for a store in memory. A store restored from it starts a new incarnation.
        """
        self._check_open()
        self._hub.backup(path)

    # --- life -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Commit what is not on disk yet and let go of the store. Twice is fine.

        Views and handles of an opened store are closed with it; closing a view closes that only.
        Arrays taken from it stay valid.
        """
        if self._closed:
            return
        self._closed = True
        hub = self._hub
        from annapy.hub import CLOSED
        self.engine = CLOSED
        if "_view_of" not in self.__dict__:
            hub.release()

    @property
    def closed(self) -> bool:
        """Whether this store, or the one that it is a view of, was closed."""
        return self._closed or self._hub.closed

    @property
    def url(self) -> str | None:
        """What opens the same directory; None in memory."""
        return self._hub.options.url()

    def _check_open(self) -> None:
        if self.closed:
            from annapy.errors import StoreClosed
            raise StoreClosed("the store was closed; open it again")

    def _shown(self, key: bytes) -> str:
        from annapy.errors import shorten_key
        return shorten_key(self._user_key(key))

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        under = f" under {self._prefix.decode('utf-8', 'replace')!r}" if self._prefix else ""
        return f"<annapy.Store {self.url or 'mem://'}{under}{' closed' if self.closed else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        url = self.url
        if url is None:
            raise TypeError("a store in memory cannot be pickled: it belongs to this process; open "
                            "a directory, whose store pickles by its URL")
        from annapy.hub import reopen
        return reopen, (url, isinstance(self, Misses), self._prefix, self._ack, self._ttl_ms)


MutableMapping.register(Store)


class Misses:
    """What `options(errors="miss")` mixes in: what cannot be read is missing."""

    __slots__ = ()

    def get(self, k: Key, default: Any = None, **how: Any) -> Any:
        """As `Store.get`; `default` where it would raise for what is stored there."""
        try:
            return super().get(k, default, **how)  # type: ignore[misc]
        except _unreadable():
            return default

    def __getitem__(self, k: Key) -> Any:
        try:
            return super().__getitem__(k)  # type: ignore[misc]
        except _unreadable():
            raise KeyError(k) from None

    def __contains__(self, k: object) -> bool:
        try:
            return super().__contains__(k)  # type: ignore[misc,no-any-return]
        except _unreadable():
            return False


class MissStore(Misses, Store):
    """A view made by `options(errors="miss")`."""

    __slots__ = ()


def store_class(hub: Hub, misses: bool) -> type[Store]:
    """The class of Store objects over this hub."""
    if hub.options.readonly:
        from annapy import readonly
        return readonly.ReadOnlyMissStore if misses else readonly.ReadOnlyStore
    return MissStore if misses else Store


def _unreadable() -> tuple[type[Exception], ...]:
    from annapy import errors
    return (errors.CorruptCellError, errors.SerializationError, errors.NodeUnavailable,
            TimeoutError)
