"""Typed handles over one cell: counters, extremes, flags, registers, arrays, sketches.

Owns    Handle and its kinds but for the containers (containers.py).
Scopes  a handle acts on a *scope*: a Store, a Batch, or the fields of a map handle. A scope has
        `_apply`, `_read`, `_key`, `_user_key`, `_encode` and `_decode`.
Threads a handle has no state of its own; any number may use one.

Invariants
    making a handle reads and writes nothing; a mismatch of kinds raises at the first operation
    a missing key has the value of the lattice's bottom
    a handle keeps its scope, and with it the engine, alive
"""
from __future__ import annotations

from annapy._arguments import i64, op_id_bytes
from annapy._codes import (
    OP_ADD,
    OP_ENABLE,
    OP_MERGE,
    OP_NONE,
    OP_OBSERVE,
    OP_OFFER,
    OP_SET,
    REQ_DELETE,
    STAMP_SIZE,
    TAG_CAUSAL,
    TAG_FLAG,
    TAG_GCOUNTER,
    TAG_HLL,
    TAG_LWW,
    TAG_MAXARRAY,
    TAG_MAXFLOAT,
    TAG_MAXINT,
    TAG_MINFLOAT,
    TAG_MININT,
    TAG_MULTICAUSAL,
    TAG_MVREGISTER,
    TAG_PNCOUNTER,
    TAG_PRIORITY,
    TAG_SUMARRAY,
    TAG_USER,
    counted,
    members,
    varint,
)
from annapy._store import CounterCore, HandleCore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timedelta
    from typing import Any

    from annapy.lattice.base import Lattice
    from annapy.lattice.user import Siblings

    Ack = str | int
    OpId = str | bytes

__all__ = [
    "Causal",
    "Counter",
    "Flag",
    "Handle",
    "HyperLogLog",
    "MVRegister",
    "MaxArray",
    "MaxFloat",
    "MaxInt",
    "MinFloat",
    "MinInt",
    "MultiCausal",
    "Priority",
    "Register",
    "SumArray",
    "UserLattice",
    "array_type",
]

_NOTHING_SEEN = b"\x02\x00\x00"


class Handle(HandleCore):
    """A name for one cell of a store, with the operations of its kind.

    Writes are atomic and return once applied in memory, or as `ack` says; `op_id` makes a retry
    exactly-once. They raise LatticeTypeError if the key holds another kind.
    """

    __slots__ = ()

    kind = ""
    tag = 0

    @property
    def key(self) -> Any:
        """The key; for a field of a map, the field."""
        return self._scope._user_key(self._at)

    @property
    def value(self) -> Any:
        """What `s[k]` gives, or the bottom's value if the key is missing."""
        return self.read().value

    def read(self) -> Lattice:
        """The lattice value as of now, immutable; the bottom if the key is missing."""
        from annapy.lattice.base import Lattice
        return Lattice.from_state(self.tag, self._state())

    def merge(self, x: Lattice, *, ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """Join a lattice value of this kind into the cell. Idempotent."""
        if getattr(x, "tag", None) != self.tag or isinstance(x, type):
            from annapy.errors import LatticeTypeError
            found = getattr(x, "kind", type(x).__name__)
            raise LatticeTypeError(f"{self.kind} {self.key!r} merges lattice values of kind "
                                   f"{self.kind}, not {found}", expected=self.kind,
                                   found=str(found))
        self._do(OP_MERGE, bytes(x), ack, op_id)

    def delete(self, *, ack: Ack | None = None, op_id: OpId | None = None) -> bool:
        """Remove the key; whether it was there."""
        self._state()
        done = self._scope._apply(self._at, OP_NONE, 0, flags=REQ_DELETE, ack=ack,
                                  op_id=op_id_bytes(op_id))
        return bool(done[0])

    def _do(self, code: int, arg: bytes, ack: Ack | None, op_id: OpId | None,
            flags: int = 0) -> None:
        self._scope._apply(self._at, code, self.tag, arg, flags=flags, ack=ack,
                           op_id=op_id_bytes(op_id))

    def _state(self) -> bytes:
        found = self._scope._read(self._at)
        if found is None:
            return b""
        if found[0] != self.tag:
            raise self._mismatch(found[0])
        return found[1]  # type: ignore[no-any-return]

    def _mismatch(self, tag: int) -> Exception:
        from annapy._core import face
        from annapy.errors import LatticeTypeError
        found = face.KINDS.get(tag, f"lattice of type {tag}")
        return LatticeTypeError(
            f"key {self.key!r:.80} holds a {found}, not a {self.kind}: use s.{found}(…), another "
            "key, or delete it first", key=str(self.key), expected=self.kind, found=found)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        holder = getattr(self._scope, "_map", None)   # the map, if this is one of its fields
        scope = id(self._scope) if holder is None else holder._identity()
        return (type(self), scope, self._at)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.key!r} of {self._scope!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (type(self), self._scope, self._at, self._how())

    def _how(self) -> tuple[Any, ...]:
        return ()


def _make(cls: type[Handle], scope: Any, at: bytes, how: tuple[Any, ...]) -> Handle:
    return cls(scope, at, *how)


class Counter(CounterCore, Handle):
    """A 64-bit counter: `add` and `sub`. A key that merge() made a grow-only counter stays one."""

    __slots__ = ()

    kind = "counter"
    tag = TAG_PNCOUNTER

    def _add_slow(self, n: int, ack: Ack | None, op_id: OpId | None) -> None:
        self._add(i64(n), ack, op_id)

    def _add(self, arg: bytes, ack: Ack | None, op_id: OpId | None) -> None:
        from annapy.errors import LatticeTypeError
        try:
            self._do(OP_ADD, arg, ack, op_id)
        except LatticeTypeError:
            found = self._scope._read(self._at)
            if found is None or found[0] != TAG_GCOUNTER:
                raise
            self._scope._apply(self._at, OP_ADD, TAG_GCOUNTER, arg, ack=ack,
                               op_id=op_id_bytes(op_id))

    def read(self) -> Lattice:
        """The lattice value as of now, immutable; the bottom if the key is missing."""
        from annapy.lattice.base import Lattice
        found = self._scope._read(self._at)
        if found is None:
            return Lattice.from_state(TAG_PNCOUNTER, b"")
        if found[0] not in (TAG_PNCOUNTER, TAG_GCOUNTER):
            raise self._mismatch(found[0])
        return Lattice.from_state(found[0], found[1])

    def delete(self, *, ack: Ack | None = None, op_id: OpId | None = None) -> bool:
        """Remove the key; whether it was there."""
        self.read()    # raises if the key is no counter
        done = self._scope._apply(self._at, OP_NONE, 0, flags=REQ_DELETE, ack=ack,
                                  op_id=op_id_bytes(op_id))
        return bool(done[0])

    def __int__(self) -> int:
        return int(self.value)

    __index__ = __int__


class _Extreme(Handle):
    __slots__ = ()

    def observe(self, n: Any, *, ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """Keep `n` if it goes beyond what was observed so far."""
        self._do(OP_OBSERVE, self._operand(n), ack, op_id)

    def _operand(self, n: Any) -> bytes:
        return i64(n, f"a {self.kind} observes")


class _FloatExtreme(_Extreme):
    __slots__ = ()

    def _operand(self, n: Any) -> bytes:
        return _f64(n, f"a {self.kind} observes")


def _f64(number: Any, what: str) -> bytes:
    """Eight bytes. TypeError unless a real number, ValueError for NaN."""
    if not isinstance(number, (int, float)) and not hasattr(number, "__float__"):
        raise TypeError(f"{what} a float, not {type(number).__name__}")
    if isinstance(number, str):
        raise TypeError(f"{what} a float, not str")
    value = float(number)
    if value != value:  # noqa: PLR0124  (so does only NaN)
        raise ValueError(f"{what} a float that has an order, and NaN has none")
    from struct import pack
    return pack("<d", value + 0.0)   # + 0.0 turns -0.0 into 0.0


class MaxInt(_Extreme):
    """The greatest 64-bit integer observed."""

    __slots__ = ()
    kind = "maxint"
    tag = TAG_MAXINT


class MinInt(_Extreme):
    """The least 64-bit integer observed."""

    __slots__ = ()
    kind = "minint"
    tag = TAG_MININT


class MaxFloat(_FloatExtreme):
    """The greatest float observed."""

    __slots__ = ()
    kind = "maxfloat"
    tag = TAG_MAXFLOAT


class MinFloat(_FloatExtreme):
    """The least float observed."""

    __slots__ = ()
    kind = "minfloat"
    tag = TAG_MINFLOAT


class Flag(Handle):
    """False until set, then True until the key is deleted."""

    __slots__ = ()
    kind = "flag"
    tag = TAG_FLAG

    def set(self, *, ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """Make it True."""
        self._do(OP_ENABLE, b"", ack, op_id)

    def __bool__(self) -> bool:
        return bool(self.value)


class Priority(Handle):
    """The value offered with the lowest priority; among equals the least bytes."""

    __slots__ = ()
    kind = "priority"
    tag = TAG_PRIORITY

    def offer(self, priority: float, value: Any, *, ack: Ack | None = None,
              op_id: OpId | None = None) -> None:
        """Keep `value` if its priority is lower than what was offered so far. NaN is refused."""
        arg = _f64(priority, "a priority is") + self._scope._encode(value)
        self._do(OP_OFFER, arg, ack, op_id)

    @property
    def value(self) -> Any:
        """The value with the lowest priority; None if nothing was offered."""
        state = self._state()
        return self._scope._decode(state[8:]) if state else None


class Register(Handle):
    """The last write wins, by hybrid logical clock."""

    __slots__ = ()
    kind = "register"
    tag = TAG_LWW

    def set(self, v: Any, *, ttl: float | str | timedelta | None = None, ack: Ack | None = None,
            op_id: OpId | None = None) -> None:
        """Assign; without `ttl` as `s[k] = v` does."""
        self._scope._apply(self._at, OP_SET, self.tag, self._scope._encode(v),
                           ttl_ms=self._scope._ttl_to_ms(ttl), ack=ack,
                           op_id=op_id_bytes(op_id))

    @property
    def value(self) -> Any:
        """The value; None if the key is missing."""
        state = self._state()
        return self._scope._decode(state[STAMP_SIZE:]) if len(state) > STAMP_SIZE else None


class MVRegister(Handle):
    """A register that keeps concurrent writes side by side."""

    __slots__ = ()
    kind = "mvregister"
    tag = TAG_MVREGISTER

    def set(self, v: Any, *, after: Any = None, ack: Ack | None = None,
            op_id: OpId | None = None) -> None:
        """Replace every sibling that is there, or only those in `after` (an earlier read())."""
        self._do(OP_SET, self._seen(after) + self._scope._encode(v), ack, op_id)

    def _seen(self, after: Any) -> bytes:
        """The counted context of a read: what its reader had seen. Empty: all of the owner's."""
        if after is None:
            return b"\x00"
        if getattr(after, "tag", None) != self.tag:
            raise TypeError(f"after= takes what an earlier read() of a {self.kind} returned, not "
                            f"{type(after).__name__}")
        return counted_context(after.state) or _NOTHING_SEEN

    @property
    def siblings(self) -> tuple[Any, ...]:
        """The concurrent values, the latest first; empty if the key is missing."""
        state = self._state()
        if not state:
            return ()
        from annapy._core.joins_causal import siblings
        return tuple(self._scope._decode(s[2]) for s in siblings(self.tag, state))

    @property
    def value(self) -> Any:
        """The latest sibling; None if there is none."""
        siblings = self.siblings
        return siblings[0] if siblings else None


def counted_context(state: bytes) -> bytes:
    """The leading varint length and context of a dotted state, as they stand there."""
    length = shift = at = 0
    while at < len(state):
        byte = state[at]
        length |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if byte < 0x80:
            return state[:at + length]
    return b""


class Causal(MVRegister):
    """A register with its causal context: what its writers had seen."""

    __slots__ = ()
    kind = "causal"
    tag = TAG_CAUSAL

    @property
    def clock(self) -> Any:
        """The causal context of all siblings together, as a `VectorClock`."""
        return self.read().clock  # type: ignore[attr-defined]


class MultiCausal(Causal):
    """The same; each value also names what it depends on under other keys."""

    __slots__ = ()
    kind = "multicausal"
    tag = TAG_MULTICAUSAL

    def set(self, v: Any, *, after: Any = None,
            depends: Mapping[str | bytes, Any] | None = None, ack: Ack | None = None,
            op_id: OpId | None = None) -> None:
        """As `causal.set`; `depends`: other keys and the read() values that `v` was made from."""
        from annapy._arguments import key_bytes
        dependencies = []
        for k, seen in (depends or {}).items():
            if getattr(seen, "tag", None) not in (TAG_MVREGISTER, TAG_CAUSAL, TAG_MULTICAUSAL):
                raise TypeError("depends= maps keys to read() values of causal registers, and "
                                f"{k!r:.60} is given a {type(seen).__name__}")
            context = counted_context(seen.state)
            dependencies.append((key_bytes(k), context or _NOTHING_SEEN))
        dependencies.sort()
        arg = (self._seen(after) + counted(self._scope._encode(v)) + varint(len(dependencies))
               + b"".join(counted(k) + context for k, context in dependencies))
        self._do(OP_SET, arg, ack, op_id)


class HyperLogLog(Handle):
    """About how many distinct members were added: within 2 % or so, in 16 KiB at most."""

    __slots__ = ()
    kind = "hll"
    tag = TAG_HLL

    def add(self, x: Any, *, ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """Count `x` once. Members equal in Python (1, 1.0, True) are one."""
        self.update((x,), ack=ack, op_id=op_id)

    def update(self, xs: Iterable[Any], *, ack: Ack | None = None,
               op_id: OpId | None = None) -> None:
        """Count each of `xs`, in one operation."""
        from annapy import values
        self._do(OP_ADD, members([values.member(x) for x in xs]), ack, op_id)


# --- arrays -------------------------------------------------------------------------------------

_DLPACK_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}


def array_type(shape: int | tuple[int, ...], dtype: Any) -> tuple[tuple[int, ...], str]:
    """A shape and dtype, checked, in the form that a handle is cached by."""
    import numpy
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all(isinstance(n, int) and n >= 0 for n in sizes):
        raise ValueError(f"shape={shape!r} must be a whole number or a tuple of them, not negative")
    found = numpy.dtype(dtype)
    if found.kind not in "iuf":
        raise TypeError(f"dtype={found} has no order or sum here: use an integer or float dtype")
    return sizes, found.name


class _Array(Handle):
    __slots__ = ("_dtype", "_shape")

    def __init__(self, scope: Any, at: bytes, shape: tuple[int, ...], dtype: str) -> None:
        super().__init__(scope, at)
        self._shape = shape
        self._dtype = dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that this handle was made with."""
        return self._shape

    @property
    def dtype(self) -> Any:
        """The dtype that this handle was made with, as a `numpy.dtype`."""
        import numpy
        return numpy.dtype(self._dtype)

    @property
    def value(self) -> Any:
        """A read-only array; if the key is missing, of the bottom's elements."""
        state = self._state()
        if not state:
            return self._bottom()
        from annapy.lattice.base import Lattice
        found = Lattice.from_state(self.tag, state).value
        if found.shape != self._shape or found.dtype.name != self._dtype:
            raise ValueError(f"{self.kind} {self.key!r} holds {found.dtype}{found.shape}, and this "
                             f"handle is for {self._dtype}{self._shape}")
        return found

    def _bottom(self) -> Any:
        raise NotImplementedError

    def _operand(self, array: Any) -> bytes:
        """Header and elements. ValueError for another shape, TypeError for a lossy dtype."""
        import numpy
        given = numpy.asarray(array)
        if given.shape != self._shape:
            raise ValueError(f"{self.kind} {self.key!r} takes arrays of shape {self._shape}, not "
                             f"{given.shape}")
        if not numpy.can_cast(given.dtype, self._dtype, "same_kind"):
            raise TypeError(f"{self.kind} {self.key!r} holds {self._dtype}, and {given.dtype} does "
                            "not convert to it safely: convert it yourself with astype")
        data = numpy.ascontiguousarray(given, dtype=self.dtype.newbyteorder("<"))
        head = bytes((_DLPACK_CODES[data.dtype.kind], data.dtype.itemsize * 8, 1, 0,
                      len(self._shape), 0, 0, 0))
        sizes = b"".join(n.to_bytes(8, "little") for n in self._shape)
        return head + sizes + data.tobytes()

    def _identity(self) -> tuple[Any, ...]:
        return (*super()._identity(), self._shape, self._dtype)

    def _how(self) -> tuple[Any, ...]:
        return (self._shape, self._dtype)


class MaxArray(_Array):
    """The element-wise maximum of the arrays observed."""

    __slots__ = ()
    kind = "maxarray"
    tag = TAG_MAXARRAY

    def observe(self, a: Any, *, ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """Raise each element to at least that of `a`. NaN is refused."""
        self._do(OP_OBSERVE, self._operand(a), ack, op_id)

    def _bottom(self) -> Any:
        import numpy
        dtype = self.dtype
        least = -numpy.inf if dtype.kind == "f" else numpy.iinfo(dtype).min
        return numpy.full(self._shape, least, dtype)


class SumArray(_Array):
    """The sum of all arrays added: each actor's contribution is versioned and joined once."""

    __slots__ = ()
    kind = "sumarray"
    tag = TAG_SUMARRAY

    def add(self, gradient: Any, *, ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """Add element-wise."""
        self._do(OP_ADD, self._operand(gradient), ack, op_id)

    def _bottom(self) -> Any:
        import numpy
        return numpy.zeros(self._shape, self._dtype)


class UserLattice(Handle):
    """A key that holds a lattice of the user's own type.

    The engine never runs the type's code: it keeps encoded states, which readers join and writers
    replace.
    """

    __slots__ = ("_type",)
    kind = "lattice"
    tag = TAG_USER

    def __init__(self, scope: Any, at: bytes, lattice_type: type[Lattice]) -> None:
        super().__init__(scope, at)
        self._type = lattice_type

    def read(self) -> Lattice:
        """The join of what is stored, as a value of the handle's type; `T()` if missing."""
        return self._siblings().join_as(self._type)

    def merge(self, x: Lattice, *, ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """Join `x` into what is stored. Idempotent; a concurrent writer's state is kept beside."""
        if type(x) is not self._type:
            from annapy.errors import LatticeTypeError
            raise LatticeTypeError(f"key {self.key!r:.80}: this handle merges "
                                   f"{self._type.__name__}, not {type(x).__name__}",
                                   expected=self._type.__name__, found=type(x).__name__)
        siblings = self._siblings()
        joined = siblings.join_as(self._type) | x
        self._do(OP_SET, siblings.argument(joined, siblings.context), ack, op_id)

    def _siblings(self) -> Siblings:
        from annapy.lattice.user import Siblings, name_of
        siblings = Siblings._of(self._state())
        name = name_of(self._type)
        if siblings.name not in (None, name):
            from annapy.errors import LatticeTypeError
            raise LatticeTypeError(f"key {self.key!r:.80} holds lattices named {siblings.name!r}, "
                                   f"not {name!r}: use s.lattice(k, T) with that type",
                                   key=str(self.key), expected=name, found=siblings.name)
        return siblings

    def _identity(self) -> tuple[Any, ...]:
        return (*super()._identity(), self._type)

    def _how(self) -> tuple[Any, ...]:
        return (self._type,)
