"""What `keys`, `items` and `values` of a Store return: set-like, live, weakly consistent.

Owns    the three views, and equality by contents.
Threads as the store: any.

Invariants
    what is deleted while a view is iterated over is left out, never an error
"""
from __future__ import annotations

from _collections_abc import ItemsView, KeysView, ValuesView

from annapy._arguments import utf8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from annapy.store import Store

__all__ = ["ABSENT", "Items", "Keys", "Values", "same"]

ABSENT: Any = object()
"""No value at all, where None is one."""


def same(a: object, b: object) -> bool:
    """Equality by contents, arrays included."""
    try:
        return bool(a == b)
    except ValueError:
        import numpy
        return bool(numpy.array_equal(a, b))  # type: ignore[arg-type]


def _store(view: Any) -> Store:
    """The store behind a view: where collections.abc keeps it."""
    return view._mapping  # type: ignore[no-any-return]


class Keys(KeysView):  # type: ignore[type-arg]
    """The live keys, weakly consistent."""

    __slots__ = ("_under",)

    def __init__(self, store: Store, under: str | bytes = "") -> None:
        super().__init__(store)
        self._under = under

    def __iter__(self) -> Iterator[str]:
        return _store(self)._iterate_keys(self._under)

    def __len__(self) -> int:
        if not self._under:
            return len(_store(self))
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, (str, bytes)) or key not in _store(self):
            return False
        return not self._under or utf8(key).startswith(utf8(self._under))


class Items(ItemsView):  # type: ignore[type-arg]
    """The live items. What is deleted meanwhile is left out."""

    __slots__ = ()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        store = _store(self)
        for key in store:
            value = store.get(key, ABSENT)
            if value is not ABSENT:
                yield key, value


class Values(ValuesView):  # type: ignore[type-arg]
    """The live values. What is deleted meanwhile is left out."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        for _, value in Items(_store(self)):
            yield value
