"""Where typed handles come from: one method a kind, and the weak cache behind them.

Owns    Factories, mixed into Store, Batch and the map handles.
Threads making a handle twice at once gives two equal handles, of which one stays cached.

Invariants
    making a handle reads and writes nothing
    the same (kind, key) gives the same object for as long as somebody holds it
"""
from __future__ import annotations

from _weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from annapy import containers, handles
    from annapy.lattice.base import Lattice

    Key = str | bytes

__all__ = ["Factories"]


class Factories:
    """Handles by name. They read and write nothing until used; see `annapy.handles`."""

    __slots__ = ()

    def _handle(self, module: str, name: str, k: Key, *how: Any) -> Any:
        key = self._key(k)  # type: ignore[attr-defined]
        cached = self.__dict__.setdefault("_handles", {})
        slot = (name, key, *how)
        found = cached.get(slot)
        handle = found() if found is not None else None
        if handle is None:
            if module == "handles":
                from annapy import handles as where
            else:
                from annapy import containers as where  # type: ignore[no-redef]
            handle = getattr(where, name)(self, key, *how)

            def forget(dead: object, cached: Any = cached, slot: Any = slot) -> None:
                if cached.get(slot) is dead:
                    cached.pop(slot, None)    # another thread may have been here

            cached[slot] = ref(handle, forget)
        return handle

    def counter(self, k: Key) -> handles.Counter:
        """A counter of 64 bits: `.add(n)`, `.sub(n)`."""
        return self._handle("handles", "Counter", k)  # type: ignore[no-any-return]

    def maxint(self, k: Key) -> handles.MaxInt:
        """The greatest integer observed: `.observe(n)`."""
        return self._handle("handles", "MaxInt", k)  # type: ignore[no-any-return]

    def minint(self, k: Key) -> handles.MinInt:
        """The least integer observed: `.observe(n)`."""
        return self._handle("handles", "MinInt", k)  # type: ignore[no-any-return]

    def maxfloat(self, k: Key) -> handles.MaxFloat:
        """The greatest float observed: `.observe(x)`; NaN is refused."""
        return self._handle("handles", "MaxFloat", k)  # type: ignore[no-any-return]

    def minfloat(self, k: Key) -> handles.MinFloat:
        """The least float observed: `.observe(x)`; NaN is refused."""
        return self._handle("handles", "MinFloat", k)  # type: ignore[no-any-return]

    def flag(self, k: Key) -> handles.Flag:
        """False until `.set()`, then True."""
        return self._handle("handles", "Flag", k)  # type: ignore[no-any-return]

    def priority(self, k: Key) -> handles.Priority:
        """The value offered with the lowest priority: `.offer(priority, value)`."""
        return self._handle("handles", "Priority", k)  # type: ignore[no-any-return]

    def register(self, k: Key) -> handles.Register:
        """What `s[k] = v` writes: the last write wins."""
        return self._handle("handles", "Register", k)  # type: ignore[no-any-return]

    def mvregister(self, k: Key) -> handles.MVRegister:
        """A register that keeps concurrent writes apart: `.siblings`."""
        return self._handle("handles", "MVRegister", k)  # type: ignore[no-any-return]

    def causal(self, k: Key) -> handles.Causal:
        """A register with its causal context: `.siblings`, `.clock`."""
        return self._handle("handles", "Causal", k)  # type: ignore[no-any-return]

    def multicausal(self, k: Key) -> handles.MultiCausal:
        """The same with dependencies on other keys."""
        return self._handle("handles", "MultiCausal", k)  # type: ignore[no-any-return]

    def hll(self, k: Key) -> handles.HyperLogLog:
        """About how many distinct members were added, in constant space."""
        return self._handle("handles", "HyperLogLog", k)  # type: ignore[no-any-return]

    def maxarray(self, k: Key, shape: int | tuple[int, ...], dtype: Any = "float64",
                 ) -> handles.MaxArray:
        """The element-wise maximum of the arrays observed."""
        from annapy.handles import array_type
        return self._handle("handles", "MaxArray", k,  # type: ignore[no-any-return]
                            *array_type(shape, dtype))

    def sumarray(self, k: Key, shape: int | tuple[int, ...], dtype: Any = "float64",
                 ) -> handles.SumArray:
        """The sum of the arrays added by every actor."""
        from annapy.handles import array_type
        return self._handle("handles", "SumArray", k,  # type: ignore[no-any-return]
                            *array_type(shape, dtype))

    def lattice(self, k: Key, T: type[Lattice]) -> handles.UserLattice:  # noqa: N803
        """A key that holds a user-defined lattice `T`: `.merge(x)`."""
        return self._handle("handles", "UserLattice", k, T)  # type: ignore[no-any-return]

    def gset(self, k: Key) -> containers.GSet:
        """A set that only grows."""
        return self._handle("containers", "GSet", k)  # type: ignore[no-any-return]

    def orset(self, k: Key) -> containers.ORSet:
        """A set; an addition wins over a concurrent removal."""
        return self._handle("containers", "ORSet", k)  # type: ignore[no-any-return]

    def ordered_set(self, k: Key) -> containers.OrderedSet:
        """A sorted sequence of distinct members that only grows."""
        return self._handle("containers", "OrderedSet", k)  # type: ignore[no-any-return]

    def map(self, k: Key) -> containers.Map:
        """Fields to lattices; fields are never removed."""
        return self._handle("containers", "Map", k)  # type: ignore[no-any-return]

    def ormap(self, k: Key) -> containers.ORMap:
        """Fields to lattices; an update wins over a concurrent removal."""
        return self._handle("containers", "ORMap", k)  # type: ignore[no-any-return]
