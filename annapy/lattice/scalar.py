"""Numbers, flags, registers, counters and clocks: the lattices whose state is small.

Owns    MaxInt MinInt MaxFloat MinFloat Flag LWW Priority GCounter PNCounter VectorClock.
Values are immutable and cost O(their state) to join; see annapy/_core/joins_scalar.pyx for the
states and the papers. An *actor* is in whose name a counter or clock counts: a name or a number
from 1 to 2**64 - 1. Two writers must never count at once in the name of one actor; inside a store
the store itself is the actor, so this only concerns values that are made outside of one.
"""

from __future__ import annotations

from annapy._core import face
from annapy.lattice.base import OP, TAG, CellLattice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, ClassVar

    from typing_extensions import Self

__all__ = [
    "LWW",
    "Flag",
    "GCounter",
    "MaxFloat",
    "MaxInt",
    "MinFloat",
    "MinInt",
    "PNCounter",
    "Priority",
    "VectorClock",
]

OBSERVE, ENABLE, SET, CLEAR = OP["observe"], OP["enable"], OP["set"], OP["clear"]
OFFER, ADD = OP["offer"], OP["add"]
STAMP_SIZE = 20

_STAMP_HELP = (
    "a stamp orders registers: pass stamp=(hlc, actor, client), or actor=NAME to have one minted"
    " after what is there, at this machine's time"
)


class _Extreme(CellLattice):
    """A maximum or minimum of numbers. The bottom has observed none: its value is None."""

    __slots__ = ()
    _pack: ClassVar[Any]
    _unpack: ClassVar[Any]

    @property
    def value(self) -> int | float | None:
        """The number, or None if none was observed yet."""
        return self._unpack(self._state) if self._state else None

    def observe(self, x: Any) -> Self:
        """With `x` taken into account. O(1).

        Raises OverflowError for an integer past 64 bits, ValueError for NaN, TypeError for what is
        not a number.
        """
        return self._apply(OBSERVE, self._pack(x))

    def delta_observe(self, x: Any) -> Self:
        """Only the change that `observe` makes."""
        return self._delta(OBSERVE, self._pack(x))


class MaxInt(_Extreme):
    """The greatest of the 64-bit integers observed.

    >>> (MaxInt().observe(3) | MaxInt().observe(7)).value
    7
    """

    __slots__ = ()
    tag = TAG["maxint"]
    kind = "maxint"
    _pack = staticmethod(face.i64)
    _unpack = staticmethod(face.to_i64)


class MinInt(_Extreme):
    """The least of the 64-bit integers observed."""

    __slots__ = ()
    tag = TAG["minint"]
    kind = "minint"
    _pack = staticmethod(face.i64)
    _unpack = staticmethod(face.to_i64)


class MaxFloat(_Extreme):
    """The greatest of the floats observed. −0 counts as +0; NaN is refused."""

    __slots__ = ()
    tag = TAG["maxfloat"]
    kind = "maxfloat"
    _pack = staticmethod(face.f64)
    _unpack = staticmethod(face.to_f64)


class MinFloat(_Extreme):
    """The least of the floats observed. −0 counts as +0; NaN is refused."""

    __slots__ = ()
    tag = TAG["minfloat"]
    kind = "minfloat"
    _pack = staticmethod(face.f64)
    _unpack = staticmethod(face.to_f64)


class Flag(CellLattice):
    """False until somebody sets it; then true for ever.

    >>> (Flag() | Flag().set()).value
    True
    """

    __slots__ = ()
    tag = TAG["flag"]
    kind = "flag"

    @property
    def value(self) -> bool:
        """Was it set by anyone?"""
        return bool(self._state)

    def set(self) -> Self:
        """Raised. O(1)."""
        return self._apply(ENABLE)

    def delta_set(self) -> Self:
        """Only the change that `set` makes."""
        return self._delta(ENABLE)


def _decode_value(data: bytes) -> Any:
    from annapy import values

    return values.decode(data)


def _encode_value(value: object) -> bytes:
    from annapy import values

    return values.encode(value)


def _stamp_text(hlc: int) -> str:
    """The wall time in a stamp, as ISO 8601 in UTC."""
    import time

    ms = hlc >> 16
    try:
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000))
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"
    return f"{whole}.{ms % 1000:03d}Z"


class LWW(CellLattice):
    """A register in which the last writer wins: the value with the greatest stamp.

    A stamp is (hybrid logical clock, actor, client), compared in this order; a tie is broken by the
    value's bytes, so that the join commutes in every case. A removed value is a tombstone, which is
    a write like another. Any value that annapy.values encodes.

    >>> a = LWW().set("old", actor="a")
    >>> b = a.set("new", actor="b")
    >>> (b | a).value
    'new'
    """

    __slots__ = ()
    tag = TAG["register"]
    kind = "register"

    @property
    def value(self) -> Any:
        """The value, decoded afresh; None if there is none or it was removed (see `is_empty`)."""
        data = self._state[STAMP_SIZE:]
        return _decode_value(data) if data else None

    @property
    def stamp(self) -> tuple[int, int, int] | None:
        """(hlc, actor, client) of what is there, None at the bottom."""
        s = self._state
        if not s:
            return None
        return (
            int.from_bytes(s[:8], "little"),
            int.from_bytes(s[8:16], "little"),
            int.from_bytes(s[16:20], "little"),
        )

    def _stamp(
        self, stamp: tuple[int, int, int] | int | None, actor: str | bytes | int | None
    ) -> tuple[int, int, int]:
        if stamp is not None:
            full = (stamp, 0, 0) if isinstance(stamp, int) else tuple(stamp)
            if actor is not None and full[1] == 0:
                full = (full[0], face.actor_id(actor), *full[2:])
            if len(full) != 3 or not any(full):
                raise ValueError(f"{stamp!r} is not a stamp: {_STAMP_HELP}")
            return full
        if actor is None:
            raise TypeError(_STAMP_HELP)
        import time

        here = self.stamp
        wall = time.time_ns() // 1_000_000 << 16
        return (wall if here is None or wall > here[0] else here[0] + 1, face.actor_id(actor), 0)

    def set(
        self,
        value: object,
        *,
        stamp: tuple[int, int, int] | int | None = None,
        actor: str | bytes | int | None = None,
    ) -> Self:
        """With `value` written at `stamp`: unchanged if a later write is there already.

        stamp: (hlc, actor, client), or only the hlc; without it one is minted for `actor`, after
        what is there. Raises SerializationError for a value that has no encoding.
        """
        return self._apply(SET, _encode_value(value), 0, self._stamp(stamp, actor))

    def delta_set(
        self,
        value: object,
        *,
        stamp: tuple[int, int, int] | int | None = None,
        actor: str | bytes | int | None = None,
    ) -> Self:
        """Only the change that `set` makes: the bottom if a later write is there already."""
        return self._delta(SET, _encode_value(value), 0, self._stamp(stamp, actor))

    def clear(
        self,
        *,
        stamp: tuple[int, int, int] | int | None = None,
        actor: str | bytes | int | None = None,
    ) -> Self:
        """With the value removed at `stamp`, by a tombstone."""
        return self._apply(CLEAR, b"", 0, self._stamp(stamp, actor))

    def delta_clear(
        self,
        *,
        stamp: tuple[int, int, int] | int | None = None,
        actor: str | bytes | int | None = None,
    ) -> Self:
        """Only the change that `clear` makes."""
        return self._delta(CLEAR, b"", 0, self._stamp(stamp, actor))

    def __repr__(self) -> str:
        stamp = self.stamp
        if stamp is None:
            return "<LWW unset>"
        what = "removed" if self.is_empty() else repr(self.value)
        return f"<LWW {what}, written {_stamp_text(stamp[0])} by {stamp[1]:#x}>"


class Priority(CellLattice):
    """The value that was offered with the lowest priority; of equals, the one of smaller bytes.

    >>> Priority().offer(2.5, "b").offer(1.0, "a").value
    'a'
    """

    __slots__ = ()
    tag = TAG["priority"]
    kind = "priority"

    @property
    def value(self) -> Any:
        """The value, decoded afresh; None if nothing was offered."""
        return _decode_value(self._state[8:]) if self._state else None

    @property
    def priority(self) -> float | None:
        """The priority of the value that is there."""
        return face.to_f64(self._state) if self._state else None

    def offer(self, priority: float, value: object) -> Self:
        """With `value` in it if nothing of lower priority is. ValueError for a NaN priority."""
        return self._apply(OFFER, face.f64(priority) + _encode_value(value))

    def delta_offer(self, priority: float, value: object) -> Self:
        """Only the change that `offer` makes."""
        return self._delta(OFFER, face.f64(priority) + _encode_value(value))

    def __repr__(self) -> str:
        if not self._state:
            return "<Priority unset>"
        return f"<Priority {self.value!r} at {self.priority!r}>"


class _Columns(CellLattice):
    """Counters and clocks: numbers per actor, joined by the maximum per column."""

    __slots__ = ()

    def __repr__(self) -> str:
        n = len(self._state) // (24 if self.tag == TAG["counter"] else 16)
        return f"<{type(self).__name__} {self.value}, {n} actor{'' if n == 1 else 's'}>"


class GCounter(_Columns):
    """A counter that only grows: a column per actor, the value is their sum.

    >>> (GCounter().add(3, actor="a") | GCounter().add(4, actor="b")).value
    7
    """

    __slots__ = ()
    tag = TAG["gcounter"]
    kind = "gcounter"

    @property
    def value(self) -> int:
        """The sum of all additions that have arrived here."""
        return face.total(self.tag, self._state)

    @property
    def columns(self) -> dict[int, int]:
        """{actor id: its sum}."""
        return face.pairs(self._state)

    def add(self, n: int = 1, *, actor: str | bytes | int) -> Self:
        """With `n` more in the actor's column. O(actors).

        Raises ValueError for n < 0, OverflowError if the value would pass 2**63 - 1.
        """
        return self._apply(ADD, _natural(n, "GCounter"), face.actor_id(actor))

    def delta_add(self, n: int = 1, *, actor: str | bytes | int) -> Self:
        """Only the change that `add` makes: the actor's column."""
        return self._delta(ADD, _natural(n, "GCounter"), face.actor_id(actor))


class PNCounter(_Columns):
    """A counter that grows and shrinks: two columns per actor, what it added and what it took.

    >>> (PNCounter().add(3, actor="a") | PNCounter().sub(1, actor="b")).value
    2
    """

    __slots__ = ()
    tag = TAG["counter"]
    kind = "counter"

    @property
    def value(self) -> int:
        """All additions less all subtractions that have arrived here."""
        return face.total(self.tag, self._state)

    @property
    def columns(self) -> dict[int, tuple[int, int]]:
        """{actor id: (added, subtracted)}."""
        return face.triples(self._state)

    def add(self, n: int = 1, *, actor: str | bytes | int) -> Self:
        """With `n`, of either sign, more. O(actors).

        Raises OverflowError, and changes nothing, if the value would leave 64 signed bits.
        """
        return self._apply(ADD, face.i64(n), face.actor_id(actor))

    def delta_add(self, n: int = 1, *, actor: str | bytes | int) -> Self:
        """Only the change that `add` makes: the actor's columns."""
        return self._delta(ADD, face.i64(n), face.actor_id(actor))

    def sub(self, n: int = 1, *, actor: str | bytes | int) -> Self:
        """With `n` less: add(-n)."""
        return self.add(-n, actor=actor)

    def delta_sub(self, n: int = 1, *, actor: str | bytes | int) -> Self:
        """Only the change that `sub` makes."""
        return self.delta_add(-n, actor=actor)


class VectorClock(_Columns):
    """A number of events per actor. `a <= b`: all that a has seen, b has; neither: concurrent.

    >>> a, b = VectorClock().increment("a"), VectorClock().increment("b")
    >>> a <= b, b <= a, a <= (a | b)
    (False, False, True)
    """

    __slots__ = ()
    tag = TAG["clock"]
    kind = "clock"

    @property
    def value(self) -> dict[int, int]:
        """{actor id: number of events}; the id of a name is `annapy.lattice.actor_id(name)`."""
        return face.pairs(self._state)

    def __getitem__(self, actor: str | bytes | int) -> int:
        """How many events of this actor it has seen, 0 if none."""
        return face.pairs(self._state).get(face.actor_id(actor), 0)

    def increment(self, actor: str | bytes | int, n: int = 1) -> Self:
        """With `n` more events of the actor. ValueError for n < 0, OverflowError past 64 bits."""
        return self._apply(ADD, _natural(n, "VectorClock"), face.actor_id(actor))

    def delta_increment(self, actor: str | bytes | int, n: int = 1) -> Self:
        """Only the change that `increment` makes: the actor's entry."""
        return self._delta(ADD, _natural(n, "VectorClock"), face.actor_id(actor))

    @classmethod
    def of(cls, entries: Mapping[str | bytes | int, int]) -> Self:
        """The clock with these entries."""
        clock = cls()
        for actor, n in entries.items():
            clock |= cls().increment(actor, n)
        return clock


def _natural(n: int, name: str) -> bytes:
    data = face.i64(n)
    if n < 0:
        raise ValueError(f"{name} only grows: {n} is below 0 (PNCounter takes either sign)")
    return data
