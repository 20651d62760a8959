"""Sets as values: GSet and OrderedSet only grow, in an ORSet a concurrent addition wins.

Owns    GSet, OrderedSet, ORSet, and how members become an operation's argument.
Members are whatever annapy.values takes as one; those equal in Python (1, 1.0, True) are one. Each
call costs O(bytes of the set): inside a store a set is changed in place and this does not apply.
States, rules and papers: annapy/_core/joins_set.pyx.
"""

from __future__ import annotations

from annapy._core import face, joins_set
from annapy.lattice.base import OP, TAG, CellLattice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from typing_extensions import Self

__all__ = ["GSet", "ORSet", "OrderedSet"]

ADD, REMOVE, CLEAR = OP["add"], OP["remove"], OP["clear"]


def varint(n: int) -> bytes:
    """A length or count as it stands in an operation's argument."""
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def counted(data: bytes) -> bytes:
    """Bytes behind their length."""
    return varint(len(data)) + data


def member(x: object) -> bytes:
    """The encoding of a member or field. TypeError if unhashable, SerializationError if foreign."""
    from annapy import values

    return values.member(x)


def unmember(data: bytes) -> Any:
    """The member or field that is encoded so."""
    from annapy import values

    return values.unmember(data)


def members(xs: Iterable[object]) -> bytes:
    """An operation's argument: a count and the members, in any order."""
    encoded = [counted(member(x)) for x in xs]
    return varint(len(encoded)) + b"".join(encoded)


class _Set(CellLattice):
    """What the three have in common: they read as a collection of members."""

    __slots__ = ()

    def _members(self) -> list[Any]:
        from annapy.values import unmember

        return [unmember(key) for key in joins_set.keys(self._state)]

    def __contains__(self, x: object) -> bool:
        return joins_set.has(self._state, member(x))

    def __len__(self) -> int:
        return joins_set.size(self._state)

    def __bool__(self) -> bool:
        return joins_set.size(self._state) != 0

    def __iter__(self) -> Iterator[Any]:
        """In the order of the encoded members, which is Python's where it has one."""
        return iter(self._members())


class _Growing(_Set):
    __slots__ = ()

    def add(self, x: object) -> Self:
        """With `x` in it. TypeError for an unhashable, SerializationError for a foreign type."""
        return self._apply(ADD, members((x,)))

    def delta_add(self, x: object) -> Self:
        """Only the change that `add` makes: the bottom if `x` is in it already."""
        return self._delta(ADD, members((x,)))

    def update(self, xs: Iterable[object]) -> Self:
        """With all of `xs` in it."""
        return self._apply(ADD, members(xs))

    def delta_update(self, xs: Iterable[object]) -> Self:
        """Only the change that `update` makes: those of `xs` that are not in it."""
        return self._delta(ADD, members(xs))


class GSet(_Growing):
    """A set that only grows; the join is the union.

    >>> sorted((GSet().add(1) | GSet().add(2)).value)
    [1, 2]
    """

    __slots__ = ()
    tag = TAG["gset"]
    kind = "gset"

    @property
    def value(self) -> frozenset[Any]:
        """The members."""
        return frozenset(self._members())


class OrderedSet(_Growing):
    """A set that only grows and reads in order: numbers before strings, each as Python sorts them.

    >>> (OrderedSet().add("b") | OrderedSet().add("a")).value
    ('a', 'b')
    """

    __slots__ = ()
    tag = TAG["ordered_set"]
    kind = "ordered_set"

    @property
    def value(self) -> tuple[Any, ...]:
        """The members, ascending."""
        return tuple(self._members())


class ORSet(_Set):
    """A set whose members come and go; a removal takes what its replica had seen, and no more.

    >>> here = ORSet().add("x", actor="a")
    >>> there = here.add("x", actor="b")
    >>> (here.discard("x") | there).value
    frozenset({'x'})
    """

    __slots__ = ()
    tag = TAG["orset"]
    kind = "orset"

    @property
    def value(self) -> frozenset[Any]:
        """The members."""
        return frozenset(self._members())

    def add(self, x: object, *, actor: str | bytes | int) -> Self:
        """With `x` added by `actor`: it survives removals that have not seen this addition.

        Adding what is there already counts as an addition. Raises OverflowError after 2**64 - 1
        additions by one actor.
        """
        return self._apply(ADD, members((x,)), face.actor_id(actor))

    def delta_add(self, x: object, *, actor: str | bytes | int) -> Self:
        """Only the change that `add` makes."""
        return self._delta(ADD, members((x,)), face.actor_id(actor))

    def update(self, xs: Iterable[object], *, actor: str | bytes | int) -> Self:
        """With all of `xs` added by `actor`."""
        return self._apply(ADD, members(xs), face.actor_id(actor))

    def delta_update(self, xs: Iterable[object], *, actor: str | bytes | int) -> Self:
        """Only the change that `update` makes."""
        return self._delta(ADD, members(xs), face.actor_id(actor))

    def discard(self, x: object) -> Self:
        """Without `x`, as far as additions of it have been seen here. Missing: unchanged."""
        return self._apply(REMOVE, members((x,)))

    def delta_discard(self, x: object) -> Self:
        """Only the change that `discard` makes: the bottom if `x` is missing."""
        return self._delta(REMOVE, members((x,)))

    def remove(self, x: object) -> Self:
        """Without `x`; KeyError if it is missing."""
        if x not in self:
            raise KeyError(x)
        return self.discard(x)

    def delta_remove(self, x: object) -> Self:
        """Only the change that `remove` makes; KeyError if `x` is missing."""
        if x not in self:
            raise KeyError(x)
        return self.delta_discard(x)

    def clear(self) -> Self:
        """Without all that has been seen here."""
        return self._apply(CLEAR)

    def delta_clear(self) -> Self:
        """Only the change that `clear` makes."""
        return self._delta(CLEAR)
