"""A sketch as a value: HyperLogLog counts distinct members in 16 KiB, however many there are.

Owns    HyperLogLog. State, hash and papers: annapy/_core/joins_sketch.pyx.
"""

from __future__ import annotations

from annapy._core import face, joins_sketch
from annapy.lattice.base import TAG, CellLattice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

__all__ = ["HyperLogLog"]

PRECISION = 14


class HyperLogLog(CellLattice):
    """How many distinct members were seen, within 1.04 / sqrt(2**precision) (standard error).

    precision: 4 to 16; at the default of 14 the error is 0.8 % and the state takes 3 bytes a
    member at first, 16 KiB at most. The join of two precisions has the lower one. Members are
    whatever annapy.values takes as one; 1, 1.0 and True are one.

    >>> HyperLogLog().add("a").add("b").add("a").value
    2
    """

    __slots__ = ("_precision",)
    tag = TAG["hll"]
    kind = "hll"

    _precision: int

    def __new__(cls, precision: int = PRECISION) -> Self:
        """The bottom. ValueError for a precision out of range."""
        if not 4 <= precision <= 16:
            raise ValueError(f"a precision is 4 to 16, not {precision}")
        self = super().__new__(cls)
        self._precision = precision
        return self

    @classmethod
    def _of(cls, state: bytes) -> Self:
        self = super()._of(state)
        self._precision = state[0] if state else PRECISION
        return self

    @property
    def precision(self) -> int:
        """The number of index bits: there are 2**precision registers."""
        return self._precision

    @property
    def value(self) -> int:
        """The estimate, rounded. O(registers)."""
        return joins_sketch.estimate(self._state)

    def _changed(self, xs: Iterable[object]) -> bytes:
        from annapy.lattice.sets import members

        return joins_sketch.delta(self._state, self._precision, members(xs))

    def add(self, *xs: object) -> Self:
        """With the members seen. O(registers), so pass many at once.

        Raises TypeError for what cannot be hashed, SerializationError for a foreign type.
        """
        delta = self._changed(xs)
        return self._of(face.join(self.tag, self._state, delta)) if delta else self

    def delta_add(self, *xs: object) -> Self:
        """Only the change that `add` makes: the registers that rise."""
        return self._of(self._changed(xs))
