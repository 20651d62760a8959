"""Lattices of your own: subclass `annapy.Lattice` and give it a name.

    class Interval(annapy.Lattice, name="interval"):
        __slots__ = ("low", "high")

        def __init__(self, low=None, high=None):       # T() is the bottom
            self.low, self.high = low, high

        def join(self, other):                         # associative, commutative, idempotent
            lows = [x.low for x in (self, other) if x.low is not None]
            highs = [x.high for x in (self, other) if x.high is not None]
            return Interval(min(lows, default=None), max(highs, default=None))

        def encode(self):                              # equal values: equal bytes
            return f"{self.low},{self.high}".encode() if self.low is not None else b""

        @classmethod
        def decode(cls, data):                         # ValueError on what encode never returns
            ...

        @property
        def value(self):                               # what s[key] gives; by default self
            return (self.low, self.high)

`annapy.testing.check_lattice(Interval, strategy)` checks the laws. `|`, `<=`, `<`, `==`, `hash` and
`bytes()` follow from the three methods.

A store never runs this code by itself: it keeps the encoded states that were written concurrently
as *siblings*, a dot each. Who reads joins them; who writes back names, by a causal context, what it
had joined, and replaces exactly that. Past limits.USER_SIBLINGS_MAX siblings or
limits.USER_STATE_MAX_BYTES a writer must read and join first (a typed handle does so by itself).

Owns    the register of names, and Siblings: the value of a key that holds such states.
Invariants
    a name stands for one class; the same class may be defined again (a reloaded module, a notebook)
    joining all siblings gives the same value in whatever order, or the class is no lattice
    two names under one key: the greater one, by its bytes, wins whole
"""

from __future__ import annotations

from annapy import limits
from annapy._core import face
from annapy.errors import CorruptCellError, LatticeTypeError, SerializationError
from annapy.lattice.base import OP, TAG, CellLattice, Lattice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self

__all__ = ["Siblings", "name_of", "register", "registered"]

_classes: dict[str, type[Lattice]] = {}
_names: dict[type[Lattice], str] = {}


def register(cls: type[Lattice], name: str | None = None) -> None:
    """Make `cls` known by `name` (default: module and qualified name). Subclassing does it.

    ValueError if another class has the name, or for a name past limits.USER_NAME_SIZE_MAX_BYTES.
    """
    full = f"{cls.__module__}.{cls.__qualname__}"
    name = full if name is None else name
    size = len(name.encode("utf-8", "surrogateescape"))
    if not 1 <= size <= limits.USER_NAME_SIZE_MAX_BYTES:
        raise ValueError(
            f"the name of a lattice has 1 to {limits.USER_NAME_SIZE_MAX_BYTES} bytes, not {size}"
        )
    there = _classes.get(name)
    if there is not None and f"{there.__module__}.{there.__qualname__}" != full:
        raise ValueError(
            f"the lattice name {name!r} belongs to {there.__module__}.{there.__qualname__} already:"
            f" give {full} another one, class {cls.__name__}(annapy.Lattice, name=...)"
        )
    _classes[name] = cls
    _names[cls] = name


def registered(name: str) -> type[Lattice]:
    """The class that goes by a name. LatticeTypeError if no such class was defined or imported."""
    try:
        return _classes[name]
    except KeyError:
        raise LatticeTypeError(
            f"no annapy.Lattice subclass is named {name!r} in this process: import the module that"
            " defines it before reading",
            found=name,
        ) from None


def name_of(cls: type[Lattice]) -> str:
    """The name of a user-defined lattice class. LatticeTypeError for any other class."""
    try:
        return _names[cls]
    except (KeyError, TypeError):
        raise LatticeTypeError(
            f"{cls!r} is not a user-defined lattice: subclass annapy.Lattice",
            expected="an annapy.Lattice subclass",
            found=repr(cls),
        ) from None


class Siblings(CellLattice):
    """The encoded states of one user-defined lattice that were written concurrently.

    It is a lattice itself, under which no user code runs; `joined` is the user's value.
    """

    __slots__ = ()
    tag = TAG["lattice"]
    kind = "lattice"

    @property
    def name(self) -> str | None:
        """The lattice's registered name, None at the bottom."""
        if not self._state:
            return None
        return _split(self._state)[0].decode("utf-8", "surrogateescape")

    @property
    def context(self) -> bytes:
        """The encoded causal context: what a write-back of `joined` has observed."""
        return _split(self._state)[1] if self._state else b""

    @property
    def encoded(self) -> list[bytes]:
        """The states as the user's `encode` returned them, in the order of their dots."""
        return _split(self._state)[2] if self._state else []

    @property
    def joined(self) -> Lattice | None:
        """The join of all states, None at the bottom. O(siblings) decodes and joins.

        LatticeTypeError if the name is not registered here, CorruptCellError if the class refuses
        bytes that are there.
        """
        name = self.name
        return None if name is None else self.join_as(registered(name))

    def join_as(self, cls: type[Lattice]) -> Lattice:
        """The join of all states as values of `cls`; its bottom if there are none."""
        result = cls()
        for data in self.encoded:
            try:
                state = cls.decode(data)
            except Exception as error:
                raise CorruptCellError(
                    f"{cls.__name__}.decode refused {len(data)} bytes that are stored under its"
                    f" name: {error}"
                ) from error
            result = result.join(state)
        return result

    @property
    def value(self) -> Any:
        """The user's `.value` of the joined states, None at the bottom."""
        joined = self.joined
        return None if joined is None else joined.value

    @staticmethod
    def argument(x: Lattice, context: bytes = b"") -> bytes:
        """The argument of the operation that writes `x` in place of what `context` covers."""
        name = name_of(type(x)).encode("utf-8", "surrogateescape")
        data = x.encode()
        if not isinstance(data, bytes):
            raise SerializationError(
                f"{type(x).__name__}.encode returned {type(data).__name__}, not bytes"
            )
        return _counted(name) + _counted(context) + b"\0" + data

    def write(self, x: Lattice, *, actor: str | bytes | int, context: bytes | None = None) -> Self:
        """With `x` in place of the siblings that `context` covers: by default all that are here.

        So `x` must contain what it replaces: `s.write(s.joined | change, actor=...)`. ValueError
        past the limits, LatticeTypeError if states of another name are here.
        """
        return self | self.delta_write(x, actor=actor, context=context)

    def delta_write(
        self, x: Lattice, *, actor: str | bytes | int, context: bytes | None = None
    ) -> Self:
        """Only the change that `write` makes: one sibling, and the dots that it replaces."""
        seen = self.context if context is None else context
        return self._delta(OP["set"], self.argument(x, seen), face.actor_id(actor))

    def clear(self, *, actor: str | bytes | int) -> Self:
        """With all siblings that are here removed."""
        return self._apply(OP["clear"], b"", face.actor_id(actor))

    def delta_clear(self, *, actor: str | bytes | int) -> Self:
        """Only the change that `clear` makes: the dots that are removed."""
        return self._delta(OP["clear"], b"", face.actor_id(actor))

    def __repr__(self) -> str:
        n = len(self.encoded)
        return f"<Siblings of {self.name!r}: {n} state{'' if n == 1 else 's'}>"


def _counted(data: bytes) -> bytes:
    """A varint length, then the bytes."""
    n, head = len(data), bytearray()
    while n >= 0x80:
        head.append(n & 0x7F | 0x80)
        n >>= 7
    head.append(n)
    return bytes(head) + data


def _take(state: bytes, at: int) -> tuple[bytes, int]:
    """A counted run of a verified state, and where it ends."""
    n = shift = 0
    while True:
        byte = state[at]
        at += 1
        n |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return state[at : at + n], at + n


def _split(state: bytes) -> tuple[bytes, bytes, list[bytes]]:
    """Name, context and encoded states of a verified state that is not the bottom."""
    name, at = _take(state, 0)
    context, _ = _take(state, at)
    from annapy._core.joins_causal import siblings

    found = siblings(TAG["causal"], state[at:])
    return name, context, [value[1:] for _, _, value, _ in sorted(found, key=lambda s: s[0])]
