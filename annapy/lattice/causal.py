"""Registers that keep concurrent values side by side: MVRegister, Causal, MultiCausal.

Owns    the three, and Sibling: one of the values with what is known of it.
A write replaces the values that its writer had seen and no others; what remains side by side was
written concurrently. Each call costs O(bytes of the siblings). States, rules and papers:
annapy/_core/joins_causal.pyx.
"""

from __future__ import annotations

from annapy._core import dotted, face, joins_causal
from annapy.lattice.base import OP, TAG, CellLattice
from annapy.lattice.sets import counted, varint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeAlias

    from typing_extensions import Self

    from annapy.lattice.scalar import VectorClock

    Actor: TypeAlias = str | bytes | int
    Stamp: TypeAlias = tuple[int, int, int] | int | None

__all__ = ["Causal", "MVRegister", "MultiCausal", "Sibling"]

SET, CLEAR = OP["set"], OP["clear"]


class Sibling:
    """One value of a causal register.

    dot: (actor id, sequence) of its write; stamp: (hlc, actor, client); dependencies: {key: the
    encoded causal context that the writer had seen of it}, empty but in a MultiCausal.
    """

    __slots__ = ("_encoded", "dependencies", "dot", "stamp")

    def __init__(self, raw: tuple[bytes, bytes, bytes, bytes]) -> None:
        dot, stamp, self._encoded, dependencies = raw
        self.dot = _numbers(dot, 8, 8)
        self.stamp = _numbers(stamp, 8, 8, 4)
        self.dependencies: dict[str, bytes] = dict(_dependencies(dependencies))

    @property
    def value(self) -> Any:
        """The value, decoded afresh."""
        from annapy import values

        return values.decode(self._encoded)

    def __repr__(self) -> str:
        return f"<Sibling {self.value!r}, dot {self.dot[0]:#x}:{self.dot[1]}>"


def _numbers(data: bytes, *sizes: int) -> tuple[int, ...]:
    found = []
    for size in sizes:
        found.append(int.from_bytes(data[:size], "little"))
        data = data[size:]
    return tuple(found)


def _take(data: bytes, at: int) -> tuple[int, int]:
    n = shift = 0
    while True:
        byte = data[at]
        at += 1
        n |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return n, at


def _dependencies(data: bytes) -> list[tuple[str, bytes]]:
    """Of a verified sibling."""
    if not data:
        return []
    found = []
    n, at = _take(data, 0)
    for _ in range(n):
        size, at = _take(data, at)
        key = data[at : at + size].decode("utf-8", "surrogateescape")
        size, at = _take(data, at + size)
        found.append((key, data[at : at + size]))
        at += size
    return found


class _Register(CellLattice):
    __slots__ = ()

    @property
    def entries(self) -> tuple[Sibling, ...]:
        """The siblings with their dots and stamps, latest first: by stamp, then by dot."""
        return tuple([Sibling(raw) for raw in joins_causal.siblings(self.tag, self._state)])

    @property
    def siblings(self) -> tuple[Any, ...]:
        """The concurrent values, latest first; more than one until somebody writes again."""
        return tuple([sibling.value for sibling in self.entries])

    @property
    def value(self) -> Any:
        """The latest of the siblings, None if there is none."""
        found = joins_causal.siblings(self.tag, self._state)
        return Sibling(found[0]).value if found else None

    @property
    def context(self) -> bytes:
        """The encoded causal context: exactly what has been seen here, for `seen=` elsewhere."""
        return dotted.context(self._state)

    @property
    def clock(self) -> VectorClock:
        """How many writes of each actor have been seen without a gap."""
        from annapy.lattice.scalar import VectorClock

        vector, _ = face.context_split(self.context)
        return VectorClock.of({actor: n for actor, n in vector.items()})  # noqa: C416

    def _stamp(self, stamp: Stamp, actor: Actor) -> tuple[int, int, int]:
        """As a register's: given, or minted after what is there."""
        from annapy.lattice.scalar import LWW

        found = joins_causal.siblings(self.tag, self._state)
        latest = LWW._of(found[0][1] if found and any(found[0][1]) else b"")
        return latest._stamp(stamp, actor)

    def _seen(self, seen: _Register | bytes | None) -> bytes:
        if seen is None:
            return counted(b"")
        context = seen.context if isinstance(seen, _Register) else seen
        face.context_split(context)
        return counted(context or b"\0\0")

    def clear(self) -> Self:
        """Without all siblings that have been seen here; a concurrent write survives."""
        return self._apply(CLEAR)

    def delta_clear(self) -> Self:
        """Only the change that `clear` makes."""
        return self._delta(CLEAR)

    def __repr__(self) -> str:
        found = self.siblings
        return f"<{type(self).__name__} {' | '.join(map(repr, found)) if found else 'unset'}>"


class MVRegister(_Register):
    """A register that keeps all concurrent values until a later write replaces them.

    >>> a, b = MVRegister().set(1, actor="a"), MVRegister().set(2, actor="b")
    >>> sorted((a | b).siblings)
    [1, 2]
    >>> (a | b).set(3, actor="a").siblings
    (3,)
    """

    __slots__ = ()
    tag = TAG["mvregister"]
    kind = "mvregister"

    def _argument(self, value: object, seen: _Register | bytes | None) -> bytes:
        from annapy import values

        return self._seen(seen) + values.encode(value)

    def set(
        self,
        value: object,
        *,
        actor: Actor,
        stamp: Stamp = None,
        seen: _Register | bytes | None = None,
    ) -> Self:
        """With `value` in place of what its writer had seen.

        seen: the value, or the `.context` of the value, that the writer had read; None: all that
        is here. stamp: (hlc, actor, client), or only the hlc; without it one is minted after what
        is here. Raises SerializationError for a value that has no encoding, CorruptCellError for
        bytes that are not a context.
        """
        argument = self._argument(value, seen)
        return self._apply(SET, argument, face.actor_id(actor), self._stamp(stamp, actor))

    def delta_set(
        self,
        value: object,
        *,
        actor: Actor,
        stamp: Stamp = None,
        seen: _Register | bytes | None = None,
    ) -> Self:
        """Only the change that `set` makes."""
        argument = self._argument(value, seen)
        return self._delta(SET, argument, face.actor_id(actor), self._stamp(stamp, actor))


class Causal(MVRegister):
    """Anna's causal value, with a dot for each sibling instead of one clock for all of them."""

    __slots__ = ()
    tag = TAG["causal"]
    kind = "causal"


class MultiCausal(_Register):
    """A causal register whose values carry what they depend on: contexts of other keys.

    >>> basket = Causal().set(["tea"], actor="a")
    >>> order = MultiCausal().set("paid", actor="a", dependencies={"basket": basket})
    >>> order.entries[0].dependencies == {"basket": basket.context}
    True
    """

    __slots__ = ()
    tag = TAG["multicausal"]
    kind = "multicausal"

    def _argument(
        self,
        value: object,
        seen: _Register | bytes | None,
        dependencies: Mapping[str | bytes, _Register | bytes] | None,
    ) -> bytes:
        from annapy import values

        sorted_by_key: dict[bytes, bytes] = {}
        for key, what in (dependencies or {}).items():
            name = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else bytes(key)
            context = what.context if isinstance(what, _Register) else bytes(what) or b"\0\0"
            if name in sorted_by_key:
                context = face.context_join(sorted_by_key[name], context)
            sorted_by_key[name] = context
        return (
            self._seen(seen)
            + counted(values.encode(value))
            + varint(len(sorted_by_key))
            + b"".join([counted(k) + counted(c) for k, c in sorted(sorted_by_key.items())])
        )

    def set(
        self,
        value: object,
        *,
        actor: Actor,
        dependencies: Mapping[str | bytes, _Register | bytes] | None = None,
        stamp: Stamp = None,
        seen: _Register | bytes | None = None,
    ) -> Self:
        """With `value`, which depends on `dependencies`, in place of what its writer had seen.

        dependencies: {key: the value, or the `.context`, that the writer had read there}. The
        rest, and what it raises, as in `MVRegister.set`.
        """
        argument = self._argument(value, seen, dependencies)
        return self._apply(SET, argument, face.actor_id(actor), self._stamp(stamp, actor))

    def delta_set(
        self,
        value: object,
        *,
        actor: Actor,
        dependencies: Mapping[str | bytes, _Register | bytes] | None = None,
        stamp: Stamp = None,
        seen: _Register | bytes | None = None,
    ) -> Self:
        """Only the change that `set` makes."""
        argument = self._argument(value, seen, dependencies)
        return self._delta(SET, argument, face.actor_id(actor), self._stamp(stamp, actor))

    @property
    def dependencies(self) -> dict[str, bytes]:
        """{key: encoded context} of all siblings together: what a reader of them depends on."""
        joined: dict[str, bytes] = {}
        for sibling in self.entries:
            for key, context in sibling.dependencies.items():
                joined[key] = face.context_join(joined.get(key, b""), context)
        return joined
