"""`s["hits"] += 1`: an int that remembers what was added to it since it was read.

Owns    Count, and the ledger that makes sure that a delta is joined once.
Threads a Count may be handed between threads; claims on its ledger are serialised.

Invariants
    a Count equals, hashes, prints and pickles as the plain int that it shows
    each step of a += or -= is joined at most once, however often its result, or a result computed
    from it, is stored back
    under any other key, and in any other store, it is a plain int
"""
from __future__ import annotations

from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Count"]

_claims = RLock()   # re-entrant: a collector run inside may touch another Count


class _Steps:
    """One line of += on one value that was read.

    Position p stands for the first p steps, whose sum the Count at p carries. A second += from the
    same Count starts a line of its own, which hangs on the first one's position.
    """

    __slots__ = ("joined", "joined_sum", "parent", "tip")

    def __init__(self, parent: tuple[_Steps, int, int] | None) -> None:
        self.tip = 0
        self.joined = 0
        self.joined_sum = 0
        self.parent = parent

    def pending(self, position: int, total: int) -> int:
        line: _Steps = self
        amount = 0
        while True:
            if position > line.joined:
                amount += total - line.joined_sum
            if line.parent is None:
                return amount
            line, position, total = line.parent

    def join(self, position: int, total: int) -> None:
        line: _Steps = self
        while True:
            if position > line.joined:
                line.joined, line.joined_sum = position, total
            if line.parent is None:
                return
            line, position, total = line.parent


class Count(int):
    """The value of a counter as `s[k]` gives it."""

    # An int has no room for slots: the four live in the instance's dict.
    _origin: tuple[object, bytes]
    _steps: _Steps | None
    _position: int
    _total: int

    @classmethod
    def read(cls, value: int, engine: object, key: bytes) -> Count:
        """The count as it was just read from `key`."""
        self = cls(value)
        self._origin = (engine, key)
        self._steps = None
        self._position = self._total = 0
        return self

    def _step(self, amount: int) -> Count:
        steps = self._steps
        with _claims:
            if steps is None or steps.tip != self._position:
                parent = None if steps is None else (steps, self._position, self._total)
                steps, position, total = _Steps(parent), 0, 0
            else:
                position, total = self._position, self._total
            if self._steps is None:
                self._steps = steps
            steps.tip = position + 1
        stepped = Count(int(self) + amount)
        stepped._origin = self._origin
        stepped._steps = steps
        stepped._position = position + 1
        stepped._total = total + amount
        return stepped

    def __iadd__(self, other: Any) -> Any:  # type: ignore[misc]
        if isinstance(other, int) and hasattr(self, "_origin"):
            return self._step(int(other))
        return int(self) + other

    def __isub__(self, other: Any) -> Any:  # type: ignore[misc]
        if isinstance(other, int) and hasattr(self, "_origin"):
            return self._step(-int(other))
        return int(self) - other

    def comes_from(self, engine: object, key: bytes) -> bool:
        """Whether this was read from that key of that store."""
        origin = getattr(self, "_origin", None)
        return origin is not None and origin[0] is engine and origin[1] == key

    def join(self, apply: Callable[[int], object]) -> None:
        """Call `apply(delta)` for the steps not joined yet; they count as joined if it returns."""
        with _claims:
            amount = self.pending()
            if amount:
                apply(amount)
            self.joined()

    def pending(self) -> int:
        """The sum of the steps that were not joined yet."""
        with _claims:
            return 0 if self._steps is None else self._steps.pending(self._position, self._total)

    def joined(self) -> None:
        """The steps up to here have been joined."""
        with _claims:
            if self._steps is not None:
                self._steps.join(self._position, self._total)

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return int, (int(self),)

    def __copy__(self) -> int:
        return int(self)

    def __deepcopy__(self, memo: object) -> int:
        return int(self)
