"""Arrays as values: MaxArray keeps the maximum per element, SumArray a sum that many actors add to.

Owns    MaxArray, SumArray, and how an array becomes an operation's argument.
Values are immutable and cost O(their bytes) to join. Shape and dtype belong to the value: adding
another shape raises; where two replicas began with different ones, the join keeps the one with the
greater header, the same everywhere. States, rules and papers: annapy/_core/joins_array.pyx.
"""

from __future__ import annotations

from annapy._core import face, joins_array
from annapy.lattice.base import OP, TAG, CellLattice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, ClassVar

    from numpy.typing import DTypeLike, NDArray
    from typing_extensions import Self

__all__ = ["MaxArray", "SumArray"]

ADD, OBSERVE = OP["add"], OP["observe"]


def header(shape: int | Sequence[int], dtype: DTypeLike) -> bytes:
    """The array header of a shape and dtype. ValueError, or SerializationError for the dtype."""
    import numpy

    from annapy import _views

    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(size < 0 for size in sizes):
        raise ValueError(f"an array has no negative dimensions, as in {sizes}")
    first = _views.pack(numpy.empty((0,) * len(sizes), dtype))[:8]
    return first + b"".join(int(size).to_bytes(8, "little") for size in sizes)


def describe(head: bytes) -> str:
    """A header in words: "float32 of shape (2, 3)"."""
    kind = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}
    shape = tuple(int.from_bytes(head[at : at + 8], "little") for at in range(8, len(head), 8))
    return f"{kind.get(head[0], f'dtype {head[0]} of ')}{head[1]} of shape {shape}"


class _Array(CellLattice):
    """What the two have in common: a header, known from the start or from the first array."""

    __slots__ = ("_head",)

    _head: bytes
    _dtypes: ClassVar[str]

    def __new__(
        cls, shape: int | Sequence[int] | None = None, dtype: DTypeLike = "float64"
    ) -> Self:
        """The bottom; given a shape, one that accepts only that shape and dtype."""
        self = super().__new__(cls)
        self._head = b"" if shape is None else header(shape, dtype)
        return self

    @classmethod
    def _of(cls, state: bytes) -> Self:
        self = super()._of(state)
        self._head = state[: 8 + 8 * state[4]] if state else b""
        return self

    def _arg(self, a: Any) -> bytes:
        """Header and data. ValueError: another shape or dtype, or a number with no place here."""
        import numpy

        from annapy import _views

        empty = None
        if self._head:
            empty = _views.unpack(self._head[:4] + b"\x01" + b"\0" * 11).dtype
        if not hasattr(a, "dtype") and not hasattr(a, "__array_interface__"):
            a = numpy.asarray(a, empty)
        packed = _views.pack(a)
        head = packed[: 8 + 8 * packed[4]]
        if self._head and head != self._head:
            raise ValueError(
                f"{self.kind}: expected {describe(self._head)}, found {describe(head)}: convert the"
                " array first; nothing was changed"
            )
        if describe(head).split()[0] not in self._dtypes.split():
            raise ValueError(
                f"{self.kind}: takes {self._dtypes}, found {describe(head)}: convert it first"
            )
        return packed

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape, None while neither given nor observed."""
        head = self._head
        if not head:
            return None
        return tuple(int.from_bytes(head[at : at + 8], "little") for at in range(8, len(head), 8))

    @property
    def dtype(self) -> Any:
        """The NumPy dtype, None while neither given nor observed."""
        from annapy import _views

        if not self._head:
            return None
        return _views.unpack(self._head[:4] + b"\x01" + b"\0" * 11).dtype


class MaxArray(_Array):
    """The greatest number observed for each element. −0 counts as +0; NaN is refused.

    shape: an int or ints; dtype: any integer, float16, float32 or float64. Both may be left out:
    the first array observed then decides.

    >>> (MaxArray().observe([1, 5]) | MaxArray().observe([4, 2])).value.tolist()
    [4, 5]
    """

    __slots__ = ()
    tag = TAG["maxarray"]
    kind = "maxarray"
    _dtypes = "int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"

    @property
    def value(self) -> NDArray[Any] | None:
        """A read-only array, a view of this value's bytes; None if none was observed yet."""
        from annapy import _views

        return _views.unpack(self._state) if self._state else None

    def observe(self, a: Any) -> Self:
        """With every element of `a` taken into account. O(bytes).

        a: an array of exactly this shape and dtype, or nested sequences of numbers. Raises
        ValueError for another shape or dtype and for NaN, before anything changes.
        """
        return self._apply(OBSERVE, self._arg(a))

    def delta_observe(self, a: Any) -> Self:
        """Only the change that `observe` makes: the bottom if nothing rises."""
        return self._delta(OBSERVE, self._arg(a))


class SumArray(_Array):
    """A sum of arrays that any number of actors add to: a parameter server's gradients.

    Each actor has a contribution of its own, the sum of what it added, with a version; the value
    is the sum of the contributions. Memory is O(actors * bytes). shape and dtype as for MaxArray;
    the dtype is int32, int64, float32 or float64.

    >>> a = SumArray(2, "float32").add([1, 2], actor="a")
    >>> b = SumArray(2, "float32").add([10, 20], actor="b")
    >>> (a | b | a).value.tolist()
    [11.0, 22.0]
    """

    __slots__ = ()
    tag = TAG["sumarray"]
    kind = "sumarray"
    _dtypes = "int32 int64 float32 float64"

    @property
    def value(self) -> NDArray[Any] | None:
        """A read-only array: the sum, in ascending order of actors; O(actors * bytes).

        Zeros if the shape is known and nothing was added, None if it isn't known. Raises
        OverflowError if contributions that came together by a join leave an integer dtype.
        """
        import numpy

        from annapy import _views

        if self._state:
            total: NDArray[Any] = _views.unpack(joins_array.total(self._state))
            return total
        if self._head:
            zeros: NDArray[Any] = numpy.zeros(self.shape or (), self.dtype)
            zeros.flags.writeable = False
            return zeros
        return None

    @property
    def versions(self) -> dict[int, int]:
        """{actor id: how many additions it has made}."""
        return joins_array.contributions(self._state)

    def add(self, a: Any, *, actor: str | bytes | int) -> Self:
        """With `a` added to the actor's contribution. O(bytes), integers O(actors * bytes).

        a: an array of exactly this shape and dtype, or nested sequences of numbers. Raises
        ValueError for another shape or dtype, for NaN and infinities; OverflowError if the
        contribution, or an integer value, would leave the dtype; before anything changes.
        """
        return self._apply(ADD, self._arg(a), face.actor_id(actor))

    def delta_add(self, a: Any, *, actor: str | bytes | int) -> Self:
        """Only the change that `add` makes: the actor's whole contribution."""
        return self._delta(ADD, self._arg(a), face.actor_id(actor))
