"""Maps as values: fields that are lattices. Map only grows; ORMap's fields can be removed.

Owns    Map, ORMap, and the editors through which a nested lattice is changed.
`m.at(field, T)` is the nested value and takes T's own mutators, but they return the whole map:

    m.at("hits", PNCounter).add(3, actor="a")       m.orset("tags").add("new", actor="a")
    m.at("hits", PNCounter).value                   m.ormap("by day").counter("mon").add(actor="a")

Each call costs O(bytes of the map). States, rules and papers: annapy/_core/joins_map.pyx and
joins_ormap.pyx.
"""

from __future__ import annotations

from annapy._core import face, joins_map, joins_ormap
from annapy.errors import LatticeTypeError
from annapy.lattice.base import OP, TAG, CellLattice, class_of, from_state
from annapy.lattice.sets import counted, member, members, unmember

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeAlias

    from typing_extensions import Self

    Actor: TypeAlias = str | bytes | int
    Kind: TypeAlias = type[CellLattice] | str
    Stamp: TypeAlias = tuple[int, int, int] | int | None

__all__ = ["Map", "ORMap"]

SET, REMOVE, CLEAR = OP["set"], OP["remove"], OP["clear"]
UPDATE, MERGE = OP["update"], OP["merge"]
REGISTER = TAG["register"]


class _Map(CellLattice):
    """Reading, and changing nested values; what differs is whether a change needs an actor."""

    __slots__ = ()
    _core: Any

    # --- reading

    def read(self, field: object) -> CellLattice | None:
        """The nested lattice value of a field, None if it is missing."""
        found = self._core.field(self._state, member(field))
        return None if found is None else from_state(*found)

    def _items(self) -> list[tuple[Any, CellLattice]]:
        found = [(k, from_state(tag, state)) for k, tag, state in self._core.fields(self._state)]
        return [(unmember(key), nested) for key, nested in found if not _is_unset(nested)]

    @property
    def value(self) -> dict[Any, Any]:
        """{field: the nested value}, in the fields' order, without registers that were cleared."""
        return {field: nested.value for field, nested in self._items()}

    def __getitem__(self, field: object) -> Any:
        """The nested value of a field; KeyError if it is missing."""
        nested = self.read(field)
        if nested is None or _is_unset(nested):
            raise KeyError(field)
        return nested.value

    def get(self, field: object, default: Any = None) -> Any:
        """The nested value of a field, or the default."""
        nested = self.read(field)
        return default if nested is None or _is_unset(nested) else nested.value

    def __contains__(self, field: object) -> bool:
        nested = self.read(field)
        return nested is not None and not _is_unset(nested)

    def __iter__(self) -> Iterator[Any]:
        return iter([field for field, _ in self._items()])

    def __len__(self) -> int:
        return len(self._items())

    def __bool__(self) -> bool:
        return len(self) != 0

    # --- changing

    def at(self, field: object, kind: Kind, *, actor: Actor | None = None) -> Any:
        """The nested value of a field, whose mutators return the changed map.

        kind: a lattice class or the name of its kind. actor: in whose name an ORMap's field is
        changed, where the mutator itself takes none. A mutator's delta_ twin returns the map's
        delta. Reading or changing raises LatticeTypeError if the field holds another lattice.
        """
        nested = class_of(TAG[kind]) if isinstance(kind, str) else kind
        here = self.read(field)
        if here is not None and here.tag != nested.tag:
            raise LatticeTypeError(
                f"field {field!r} holds a {here.kind}, not a {nested.kind}: use another field, or"
                " remove this one first",
                expected=nested.kind,
                found=here.kind,
            )
        editor: Any = _editor(nested)._of(b"" if here is None else here.state)
        editor._parent = self
        editor._field = member(field)
        editor._actor = 0 if actor is None else face.actor_id(actor)
        return editor

    def counter(self, field: object) -> Any:
        """at(field, PNCounter)."""
        return self.at(field, "counter")

    def register(self, field: object) -> Any:
        """at(field, LWW)."""
        return self.at(field, "register")

    def mvregister(self, field: object) -> Any:
        """at(field, MVRegister)."""
        return self.at(field, "mvregister")

    def orset(self, field: object, *, actor: Actor | None = None) -> Any:
        """at(field, ORSet)."""
        return self.at(field, "orset", actor=actor)

    def gset(self, field: object, *, actor: Actor | None = None) -> Any:
        """at(field, GSet)."""
        return self.at(field, "gset", actor=actor)

    def ormap(self, field: object, *, actor: Actor | None = None) -> Any:
        """at(field, ORMap)."""
        return self.at(field, "ormap", actor=actor)

    def set(self, field: object, value: object, *, actor: Actor, stamp: Stamp = None) -> Self:
        """With a register's value written: at(field, LWW).set(value, actor=, stamp=)."""
        editor = self.at(field, "register", actor=actor)
        changed: Self = editor.set(value, actor=actor, stamp=stamp)
        return changed

    def delta_set(self, field: object, value: object, *, actor: Actor, stamp: Stamp = None) -> Self:
        """Only the change that `set` makes."""
        editor = self.at(field, "register", actor=actor)
        delta: Self = editor.delta_set(value, actor=actor, stamp=stamp)
        return delta

    def put(self, field: object, nested: CellLattice, *, actor: Actor | None = None) -> Self:
        """With a lattice value joined into a field.

        An ORMap takes values of types without dots only, in the name of `actor`: an ORSet or a
        map carries dots of its own, which cannot move (TypeError).
        """
        return self._apply(UPDATE, self._put(field, nested), self._put_actor(actor))

    def delta_put(self, field: object, nested: CellLattice, *, actor: Actor | None = None) -> Self:
        """Only the change that `put` makes."""
        return self._delta(UPDATE, self._put(field, nested), self._put_actor(actor))

    def _put(self, field: object, nested: CellLattice) -> bytes:
        return counted(member(field)) + bytes((nested.tag, MERGE)) + bytes(nested)

    def _put_actor(self, actor: Actor | None) -> int:
        return 0 if actor is None else face.actor_id(actor)


class Map(_Map):
    """Fields that are never removed, each a lattice of any type; joined field by field.

    >>> a = Map().counter("n").add(2, actor="a").set("name", "x", actor="a")
    >>> b = Map().counter("n").add(3, actor="b")
    >>> (a | b).value
    {'n': 5, 'name': 'x'}
    """

    __slots__ = ()
    tag = TAG["map"]
    kind = "map"
    _core = joins_map


class ORMap(_Map):
    """Fields that come and go; an update that a removal has not seen survives it.

    >>> cart = ORMap().counter("tea").add(1, actor="a")
    >>> there = cart.counter("tea").add(1, actor="b")
    >>> (cart.remove("tea") | there).value
    {'tea': 1}
    """

    __slots__ = ()
    tag = TAG["ormap"]
    kind = "ormap"
    _core = joins_ormap

    def _put_actor(self, actor: Actor | None) -> int:
        if actor is None:
            raise TypeError("an ORMap's field is put in the name of an actor: pass actor=NAME")
        return face.actor_id(actor)

    def discard(self, field: object) -> Self:
        """Without a field, as far as it has been seen here. Missing: unchanged."""
        return self._apply(REMOVE, members((field,)))

    def delta_discard(self, field: object) -> Self:
        """Only the change that `discard` makes."""
        return self._delta(REMOVE, members((field,)))

    def remove(self, field: object) -> Self:
        """Without a field; KeyError if it is missing."""
        if self.read(field) is None:
            raise KeyError(field)
        return self.discard(field)

    def delta_remove(self, field: object) -> Self:
        """Only the change that `remove` makes; KeyError if the field is missing."""
        if self.read(field) is None:
            raise KeyError(field)
        return self.delta_discard(field)

    def clear(self) -> Self:
        """Without all fields that have been seen here."""
        return self._apply(CLEAR)

    def delta_clear(self) -> Self:
        """Only the change that `clear` makes."""
        return self._delta(CLEAR)


def _is_unset(nested: CellLattice) -> bool:
    """A register that was cleared is there as a tombstone, which no reader sees."""
    return nested.tag == REGISTER and nested.is_empty()


class _Editor:
    """Mixed into a nested lattice's class: an operation on it is an update of its parent."""

    __slots__ = ()
    tag: int
    _parent: Any
    _field: bytes
    _actor: int

    def _update(self, code: int, arg: bytes, actor: int) -> tuple[bytes, int]:
        root: Any = self
        while isinstance(root, _Editor):
            actor = actor or root._actor
            root = root._parent
        if not actor and code not in {REMOVE, CLEAR, UPDATE} and isinstance(root, ORMap):
            raise TypeError(
                "a field of an ORMap is changed in the name of an actor: pass it to the mutator, or"
                " to at(field, T, actor=NAME)"
            )
        return counted(self._field) + bytes((self.tag, code)) + arg, actor

    def _apply(self, code: int, arg: bytes = b"", actor: int = 0, stamp: Any = None) -> Any:
        argument, by = self._update(code, arg, actor)
        return self._parent._apply(UPDATE, argument, by, stamp)

    def _delta(self, code: int, arg: bytes = b"", actor: int = 0, stamp: Any = None) -> Any:
        argument, by = self._update(code, arg, actor)
        return self._parent._delta(UPDATE, argument, by, stamp)


_editors: dict[type, Any] = {}


def _editor(nested: type[CellLattice]) -> Any:
    """The class whose instances read as `nested` and write to a map.

    Made once for each type; two threads that make one at once both make a good one.
    """
    made = _editors.get(nested)
    if made is None:
        body = {"__slots__": ("_actor", "_field", "_parent"), "__module__": __name__}
        made = _editors[nested] = type(nested.__name__ + "Editor", (_Editor, nested), body)
    return made
