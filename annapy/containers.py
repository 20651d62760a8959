"""Typed handles over collections: sets, sorted sequences, maps of lattices.

Owns    GSet, ORSet, OrderedSet, Map, ORMap, and the scope that makes a map's fields addressable
        by handles of their own.
Threads a handle has no state of its own; any number may use one.

Invariants
    members and fields equal in Python (1, 1.0, True) are one member, one field
    a field's handle writes one operation on the map's cell; no other field is touched
    iteration goes over one snapshot of the cell
"""
from __future__ import annotations

from _collections_abc import Mapping, MutableMapping, MutableSet, Sequence, Set

from annapy import values
from annapy._arguments import i64, op_id_bytes
from annapy._codes import (
    OP_ADD,
    OP_CLEAR,
    OP_MERGE,
    OP_REMOVE,
    OP_SET,
    OP_UPDATE,
    REQ_DELETE,
    REQ_IF_PRESENT,
    STAMP_SIZE,
    TAG_CAUSAL,
    TAG_GCOUNTER,
    TAG_GSET,
    TAG_LWW,
    TAG_MAP,
    TAG_MULTICAUSAL,
    TAG_MVREGISTER,
    TAG_ORDERED_SET,
    TAG_ORMAP,
    TAG_ORSET,
    TAG_PNCOUNTER,
    TAG_PRIORITY,
    TTL_KEEP,
    counted,
    members,
)
from annapy.factories import Factories
from annapy.handles import Handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from typing_extensions import Self

    Ack = str | int
    OpId = str | bytes

__all__ = ["GSet", "Map", "ORMap", "ORSet", "OrderedSet", "present"]


class _SetHandle(Handle):
    __slots__ = ()

    def add(self, x: Any, *, ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """Add one member."""
        self._do(OP_ADD, members([values.member(x)]), ack, op_id)

    def update(self, *others: Iterable[Any], ack: Ack | None = None,
               op_id: OpId | None = None) -> None:
        """Add every member of each of `others`, in one operation."""
        encoded = [values.member(x) for other in others for x in other]
        if encoded:
            self._do(OP_ADD, members(encoded), ack, op_id)

    def __contains__(self, x: object) -> bool:
        try:
            at = values.member(x)
        except TypeError:    # not hashable, or of a foreign type: so not a member
            return False
        inside = getattr(self._scope, "engine", None)
        if inside is None:   # a field of a map: its state is within another
            return x in self.value
        found = inside.entry(self._at, at)
        if found is not None and found[0] != self.tag:
            raise self._mismatch(found[0])
        return found is not None

    def __iter__(self) -> Iterator[Any]:
        return iter(self.value)

    def __len__(self) -> int:
        inside = getattr(self._scope, "engine", None)
        if inside is None:
            return len(self.value)
        found = inside.count(self._at)
        if found is not None and found[0] != self.tag:
            raise self._mismatch(found[0])
        return 0 if found is None else int(found[1])

    def __repr__(self) -> str:
        return Handle.__repr__(self)


class GSet(_SetHandle, Set):  # type: ignore[type-arg]
    """A set that only grows."""

    __slots__ = ()
    kind = "gset"
    tag = TAG_GSET

    @classmethod
    def _from_iterable(cls, xs: Iterable[Any]) -> frozenset[Any]:
        return frozenset(xs)

    def __eq__(self, other: object) -> bool:
        return Set.__eq__(self, other)

    __hash__ = None  # type: ignore[assignment]


class ORSet(_SetHandle, MutableSet):  # type: ignore[type-arg]
    """A set: a removal covers the additions that its owner had seen, and no concurrent one."""

    __slots__ = ()
    kind = "orset"
    tag = TAG_ORSET

    @classmethod
    def _from_iterable(cls, xs: Iterable[Any]) -> set[Any]:
        return set(xs)

    def discard(self, x: Any, *, ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """Remove one member if it is there."""
        self._do(OP_REMOVE, members([values.member(x)]), ack, op_id, REQ_IF_PRESENT)

    def difference_update(self, *others: Iterable[Any], ack: Ack | None = None,
                          op_id: OpId | None = None) -> None:
        """Remove every member of each of `others`, in one operation."""
        encoded = [values.member(x) for other in others for x in other]
        if encoded:
            self._do(OP_REMOVE, members(encoded), ack, op_id, REQ_IF_PRESENT)

    def clear(self, *, ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """Remove every member that the owner has, in one operation."""
        self._do(OP_CLEAR, b"", ack, op_id, REQ_IF_PRESENT)

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc]
        self.update(other)
        return self

    def __isub__(self, other: Any) -> Self:  # type: ignore[misc]
        if other is self:
            self.clear()
        else:
            self.difference_update(other)
        return self

    def __eq__(self, other: object) -> bool:
        return Set.__eq__(self, other)

    __hash__ = None  # type: ignore[assignment]


class OrderedSet(_SetHandle, Sequence):  # type: ignore[type-arg]
    """Distinct members that only grow in number, as a sorted sequence."""

    __slots__ = ()
    kind = "ordered_set"
    tag = TAG_ORDERED_SET

    def __getitem__(self, index: Any) -> Any:
        return self.value[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (OrderedSet, tuple, list)):
            return bool(self.value == tuple(other))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]


# --- values --------------------------------------------------------------------------------------


def present(decode: Callable[[bytes], Any], tag: int, state: bytes) -> Any:
    """What a reader sees of a state; `decode` is the scope's, which may know how to unpickle."""
    if tag == TAG_LWW:
        return decode(state[STAMP_SIZE:])
    if tag == TAG_PRIORITY:
        return decode(state[8:]) if state else None
    if tag in (TAG_MVREGISTER, TAG_CAUSAL, TAG_MULTICAUSAL):
        from annapy._core.joins_causal import siblings
        found = siblings(tag, state) if state else []
        return decode(found[0][2]) if found else None
    if tag in (TAG_MAP, TAG_ORMAP):
        return {values.unmember(at): present(decode, inner, nested)
                for at, inner, nested in _reader(tag).fields(state)} if state else {}
    from annapy.lattice.base import Lattice
    return Lattice.from_state(tag, state).value


def _reader(tag: int) -> Any:
    """The module that takes a map's state apart."""
    if tag == TAG_MAP:
        from annapy._core import joins_map
        return joins_map
    from annapy._core import joins_ormap
    return joins_ormap


# --- maps ---------------------------------------------------------------------------------------


class _Fields:
    """The fields of one map as a scope: what a handle does to a field is an update of the map."""

    __slots__ = ("_map",)

    def __init__(self, holder: _MapHandle) -> None:
        self._map = holder

    def _key(self, field: Any) -> bytes:
        return values.member(field)

    def _user_key(self, at: bytes) -> Any:
        return values.unmember(at)

    def _encode(self, value: Any) -> bytes:
        return self._map._scope._encode(value)  # type: ignore[no-any-return]

    def _decode(self, data: bytes) -> Any:
        return self._map._scope._decode(data)

    def _ttl_to_ms(self, ttl: object) -> int:
        if ttl is not None:
            raise ValueError(f"a field of {self._map.kind} {self._map.key!r:.60} cannot expire on "
                             "its own: give the map's key a ttl with touch()")
        return TTL_KEEP

    def _read(self, at: bytes) -> tuple[int, bytes, int, int] | None:
        found = self._map._field(at)
        return None if found is None else (*found, 0, 0)

    def _apply(self, at: bytes, code: int, tag: int, arg: bytes = b"", *, flags: int = 0,
               ttl_ms: int = TTL_KEEP, ack: Ack | None = None, op_id: bytes | None = None,
               ) -> tuple[bool, bytes | None, int]:
        assert ttl_ms == TTL_KEEP    # _ttl_to_ms has refused anything else
        if flags & REQ_DELETE:
            there = self._map._field(at) is not None
            self._map._remove([at], ack, op_id)
            return there, None, 0
        if code == OP_MERGE:
            self._map._merge_field(at, tag, arg, ack, op_id)
        else:
            nested = counted(at) + bytes((tag, code)) + arg
            self._map._do(OP_UPDATE, nested, ack, op_id)
        return True, None, 0

    def __repr__(self) -> str:
        return repr(self._map)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Fields, (self._map,)


class _MapHandle(Handle, Factories, MutableMapping):  # type: ignore[type-arg]
    __slots__ = ()

    def __getitem__(self, field: Any) -> Any:
        at = values.member(field)
        found = self._field(at)
        if found is None:
            raise KeyError(field)
        return self._present(at, *found)

    def __setitem__(self, field: Any, v: Any) -> None:
        at = values.member(field)
        if hasattr(v, "comes_from") and v.comes_from(_Fields, self._origin(at)):
            found = self._field(at)
            if found is None or found[0] in (TAG_PNCOUNTER, TAG_GCOUNTER):
                tag = TAG_PNCOUNTER if found is None else found[0]
                v.join(lambda amount: _Fields(self)._apply(at, OP_ADD, tag, i64(amount)))
                return
        _Fields(self)._apply(at, OP_SET, TAG_LWW, self._scope._encode(v))

    def __delitem__(self, field: Any) -> None:
        at = values.member(field)
        if self._field(at) is None:
            raise KeyError(field)
        self._remove([at], None, None)

    def __contains__(self, field: object) -> bool:
        return self._field(values.member(field)) is not None

    def __iter__(self) -> Iterator[Any]:
        return iter([values.unmember(at) for at, _, _ in self._fields()])

    def __len__(self) -> int:
        return len(self._fields())

    @property
    def value(self) -> dict[Any, Any]:
        """Fields to what `s[k]` would give for them, as a dict of one's own."""
        return {values.unmember(at): self._present(at, tag, state)
                for at, tag, state in self._fields()}

    def set(self, field: Any, v: Any, *, ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """Assign a register under `field`, as `h[field] = v` does."""
        _Fields(self)._apply(values.member(field), OP_SET, TAG_LWW, self._scope._encode(v),
                             ack=ack, op_id=op_id_bytes(op_id))

    def _handle(self, module: str, name: str, k: Any, *how: Any) -> Any:
        scope = _Fields(self)
        if module == "handles":
            from annapy import handles
            return getattr(handles, name)(scope, scope._key(k), *how)
        return globals()[name](scope, scope._key(k), *how)

    def _present(self, at: bytes, tag: int, state: bytes) -> Any:
        value = present(self._scope._decode, tag, state)
        if tag in (TAG_PNCOUNTER, TAG_GCOUNTER):
            from annapy.counting import Count
            return Count.read(value, _Fields, self._origin(at))
        return value

    def _origin(self, at: bytes) -> Any:
        return (self._identity(), at)

    def _fields(self) -> list[tuple[bytes, int, bytes]]:
        """(encoded field, nested tag, nested state) of each, in order."""
        state = self._state()
        return _reader(self.tag).fields(state) if state else []

    def _field(self, at: bytes) -> tuple[int, bytes] | None:
        """Nested tag and state of one field."""
        state = self._state()
        return _reader(self.tag).field(state, at) if state else None

    def _remove(self, fields: list[bytes], ack: Ack | None, op_id: OpId | None) -> None:
        raise NotImplementedError

    def _merge_field(self, at: bytes, tag: int, cell: bytes, ack: Ack | None,
                     op_id: OpId | None) -> None:
        nested = counted(at) + bytes((tag, OP_MERGE)) + cell
        self._do(OP_UPDATE, nested, ack, op_id)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return bool(self.value == dict(other.items()))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return Handle.__repr__(self)


class Map(_MapHandle):
    """Fields to lattices; a field, once there, stays."""

    __slots__ = ()
    kind = "map"
    tag = TAG_MAP

    def _remove(self, *_: Any) -> None:
        from annapy.errors import LatticeTypeError
        raise LatticeTypeError(f"fields of map {self.key!r:.60} are never removed: use s.ormap(…) "
                               "where they should be", expected="ormap", found="map")


class ORMap(_MapHandle):
    """Fields to lattices; a removal covers what its owner had seen of the field, no more."""

    __slots__ = ()
    kind = "ormap"
    tag = TAG_ORMAP

    def discard(self, *fields: Any, ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """Remove fields, in one operation; those that are not there are passed over."""
        self._remove([values.member(field) for field in fields], ack, op_id)

    def clear(self, *, ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """Remove every field that the owner has, in one operation."""
        self._do(OP_CLEAR, b"", ack, op_id, REQ_IF_PRESENT)

    def _remove(self, fields: list[bytes], ack: Ack | None, op_id: OpId | None) -> None:
        self._do(OP_REMOVE, members(fields), ack, op_id, REQ_IF_PRESENT)
