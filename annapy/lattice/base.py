"""What every lattice value has in common: operators, identity, bytes.

Owns    Lattice (the root, which users subclass), CellLattice (the root of the built-in types, a
        canonical state in bytes) and the table from tags to their classes.
Callers anyone; values are immutable, so any thread may share them.

    a | b      the join: least upper bound              a <= b    a | b == b: a adds nothing to b
    a == b     equal states (equal bytes)               a < b     a <= b and not b <= a
    neither a <= b nor b <= a: concurrent

Invariants of CellLattice
    _state is the canonical state of `tag`; b"" is the bottom, which is T()
    equal values have equal bytes(), whatever the order in which they came to be
    every mutator `m` returns a new value and has a twin `delta_m` that returns only the change:
        x.m(...) == x | x.delta_m(...)
"""

from __future__ import annotations

from annapy._core import face
from annapy.errors import CorruptCellError, LatticeTypeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from typing_extensions import Buffer, Self

__all__ = ["CellLattice", "Lattice", "class_of", "from_cell", "from_state"]

OP = face.OPS
TAG = face.TAGS

# Where the class of each tag lives: imported when the first value of it is made from bytes.
CLASSES = {
    TAG["maxint"]: ("annapy.lattice.scalar", "MaxInt"),
    TAG["minint"]: ("annapy.lattice.scalar", "MinInt"),
    TAG["maxfloat"]: ("annapy.lattice.scalar", "MaxFloat"),
    TAG["minfloat"]: ("annapy.lattice.scalar", "MinFloat"),
    TAG["flag"]: ("annapy.lattice.scalar", "Flag"),
    TAG["register"]: ("annapy.lattice.scalar", "LWW"),
    TAG["priority"]: ("annapy.lattice.scalar", "Priority"),
    TAG["gcounter"]: ("annapy.lattice.scalar", "GCounter"),
    TAG["counter"]: ("annapy.lattice.scalar", "PNCounter"),
    TAG["clock"]: ("annapy.lattice.scalar", "VectorClock"),
    TAG["gset"]: ("annapy.lattice.sets", "GSet"),
    TAG["orset"]: ("annapy.lattice.sets", "ORSet"),
    TAG["ordered_set"]: ("annapy.lattice.sets", "OrderedSet"),
    TAG["map"]: ("annapy.lattice.maps", "Map"),
    TAG["ormap"]: ("annapy.lattice.maps", "ORMap"),
    TAG["mvregister"]: ("annapy.lattice.causal", "MVRegister"),
    TAG["causal"]: ("annapy.lattice.causal", "Causal"),
    TAG["multicausal"]: ("annapy.lattice.causal", "MultiCausal"),
    TAG["maxarray"]: ("annapy.lattice.arrays", "MaxArray"),
    TAG["sumarray"]: ("annapy.lattice.arrays", "SumArray"),
    TAG["hll"]: ("annapy.lattice.sketch", "HyperLogLog"),
    TAG["lattice"]: ("annapy.lattice.user", "Siblings"),
}


class Lattice:
    """A value with a join. Subclass it for a lattice of your own: see annapy.lattice.user.

    A subclass gives `join(self, other)`, `encode(self) -> bytes` and `decode(cls, data)`, and if
    it likes `value`; `T()` without arguments must be the bottom. Everything else follows here.
    """

    __slots__ = ()

    tag: ClassVar[int] = TAG["lattice"]
    kind: ClassVar[str] = "lattice"

    def __init_subclass__(
        cls, *, name: str | None = None, builtin: bool = False, **rest: Any
    ) -> None:
        """Registers the subclass by `name`: how states of it are found again in a store."""
        super().__init_subclass__(**rest)
        if not builtin:
            from annapy.lattice import user

            user.register(cls, name)

    def join(self, other: Self) -> Self:
        """The least upper bound of the two."""
        raise NotImplementedError(f"{type(self).__name__} must define join(self, other)")

    def encode(self) -> bytes:
        """The canonical bytes: equal values have equal ones."""
        raise NotImplementedError(f"{type(self).__name__} must define encode(self)")

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """The value that these bytes encode; CorruptCellError (a ValueError) if they don't."""
        raise NotImplementedError(f"{cls.__name__} must define decode(cls, data)")

    @property
    def value(self) -> Any:
        """What a reader of a store sees. By default the lattice value itself."""
        return self

    def __bytes__(self) -> bytes:
        return self.encode()

    def _same(self, other: object, verb: str) -> bool:
        """May the two meet? LatticeTypeError for two lattices of different types."""
        if type(other) is type(self):
            return True
        if isinstance(other, Lattice):
            raise LatticeTypeError(
                f"cannot {verb} {type(self).__name__} and {type(other).__name__}: a join is between"
                " values of one lattice type",
                expected=type(self).__name__,
                found=type(other).__name__,
            )
        return False

    def __or__(self, other: Self) -> Self:
        return self.join(other) if self._same(other, "join") else NotImplemented

    def __le__(self, other: Self) -> bool:
        return self.join(other) == other if self._same(other, "compare") else NotImplemented

    def __ge__(self, other: Self) -> bool:
        return self.join(other) == self if self._same(other, "compare") else NotImplemented

    def __lt__(self, other: Self) -> bool:
        return self <= other and self != other

    def __gt__(self, other: Self) -> bool:
        return self >= other and self != other

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.encode() == other.encode()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.encode()))

    @staticmethod
    def from_state(tag: int, state: bytes) -> CellLattice:
        """The built-in value of a tag and its verified canonical state (see `from_state`)."""
        return from_state(tag, state)


class CellLattice(Lattice, builtin=True):
    """A built-in lattice: an immutable value around canonical state bytes.

    `bytes(x)` is a whole cell without generation, expiry or fields; `T.decode` accepts exactly
    that, and raises CorruptCellError for anything else.
    """

    __slots__ = ("_state",)

    _state: bytes

    def __init_subclass__(cls, **rest: Any) -> None:
        """Built-in types are known by their tag, not by a name."""
        object.__init_subclass__(**rest)

    def __new__(cls) -> Self:
        """The bottom."""
        self = object.__new__(cls)
        self._state = b""
        return self

    @classmethod
    def _of(cls, state: bytes) -> Self:
        """Around a state that is known to be canonical."""
        self = object.__new__(cls)
        self._state = state
        return self

    @property
    def state(self) -> bytes:
        """The canonical state: the cell without its header."""
        return self._state

    def join(self, other: Self) -> Self:
        """The least upper bound of the two: `self | other`."""
        return self._of(face.join(self.tag, self._state, other._state))

    def encode(self) -> bytes:
        """The whole cell: `bytes(self)`."""
        return face.make_cell(self.tag, self._state)

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """The value of a whole cell, as `bytes(x)` gives it. CorruptCellError for anything else."""
        cell = bytes(data) if not isinstance(data, bytes) else data
        face.cell_verify(cell)
        tag, state, generation, _, expiry, fields = face.cell_split(cell)
        if tag != cls.tag:
            raise CorruptCellError(
                f"{cls.__name__}.decode: the cell holds a {face.KINDS.get(tag, f'tag {tag}')},"
                f" not a {cls.kind}"
            )
        if generation is not None or expiry is not None or fields:
            raise CorruptCellError(
                f"{cls.__name__}.decode: the cell carries a generation, expiry or fields, which"
                " belong to a store; a lattice value has none"
            )
        return cls._of(state)

    def _apply(
        self,
        code: int,
        arg: bytes = b"",
        actor: int = 0,
        stamp: tuple[int, int, int] | None = None,
    ) -> Self:
        """After one operation. OverflowError, ValueError or TypeError, before anything changes."""
        return self._of(face.apply(self.tag, self._state, code, arg, actor, stamp))

    def _delta(
        self,
        code: int,
        arg: bytes = b"",
        actor: int = 0,
        stamp: tuple[int, int, int] | None = None,
    ) -> Self:
        """What one operation would change."""
        return self._of(face.mutate(self.tag, self._state, code, arg, actor, stamp))

    def is_empty(self) -> bool:
        """Is nothing observable in it: the bottom, or only the memory of what was removed?"""
        return face.is_empty(self.tag, self._state)

    def __or__(self, other: Self) -> Self:
        if type(other) is not type(self) and not self._same(other, "join"):
            return NotImplemented
        return self._of(face.join(self.tag, self._state, other._state))

    def __le__(self, other: Self) -> bool:
        if type(other) is not type(self) and not self._same(other, "compare"):
            return NotImplemented
        return face.order(self.tag, self._state, other._state) & 1 != 0

    def __ge__(self, other: Self) -> bool:
        if type(other) is not type(self) and not self._same(other, "compare"):
            return NotImplemented
        return face.order(self.tag, self._state, other._state) & 2 != 0

    def __lt__(self, other: Self) -> bool:
        if type(other) is not type(self) and not self._same(other, "compare"):
            return NotImplemented
        return face.order(self.tag, self._state, other._state) == 1

    def __gt__(self, other: Self) -> bool:
        if type(other) is not type(self) and not self._same(other, "compare"):
            return NotImplemented
        return face.order(self.tag, self._state, other._state) == 2

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._state == other._state

    def __hash__(self) -> int:
        return hash((self.tag, self._state))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).decode, (bytes(self),)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.value!r}>"


def class_of(tag: int) -> type[CellLattice]:
    """The built-in class of a tag. LatticeTypeError for a tag that this version doesn't know."""
    try:
        module, name = CLASSES[tag]
    except KeyError:
        raise LatticeTypeError(
            f"a lattice with tag {tag} is of a newer version of annapy than this one",
            found=f"tag {tag}",
        ) from None
    found: type[CellLattice] = getattr(__import__(module, None, None, [name]), name)
    return found


def from_state(tag: int, state: bytes) -> CellLattice:
    """The value of a tag and its verified canonical state, in the class that belongs to the tag."""
    return class_of(tag)._of(state)


def from_cell(data: Buffer) -> CellLattice:
    """The value in a whole cell of any built-in type, as `bytes(x)` gives it.

    CorruptCellError for bytes that are not a cell, LatticeTypeError for a tag not known here.
    """
    cell = bytes(data)
    face.cell_verify(cell)
    return class_of(cell[1]).decode(cell)
