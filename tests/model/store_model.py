"""A store as a dict: what every public method should do, written from its description.

Owns    StoreModel. Never imports annapy: a twin that shares code with its original shares its bugs.

Invariants
    a key is absent or a Cell; kinds keep to their operations, or Mismatch is raised
    order is by the UTF-8 bytes of keys, surrogate escapes included
"""
from __future__ import annotations

from typing import Any

__all__ = ["Cell", "Mismatch", "StoreModel", "encoded"]

BOTTOMS: dict[str, Any] = {
    "counter": 0, "flag": False, "gset": frozenset(), "orset": frozenset(), "ordered_set": (),
    "map": {}, "ormap": {}, "hll": frozenset(),
}


class Mismatch(Exception):
    """The key holds another kind."""


class Cell:
    """Kind, value, whether it has a deadline, and its label."""

    def __init__(self, kind: str, value: Any, *, mortal: bool = False, label: str | None = None,
                 ) -> None:
        self.kind = kind
        self.value = value
        self.mortal = mortal
        self.label = label


def encoded(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


class StoreModel:
    """The plain dict, and what each method makes of it."""

    def __init__(self) -> None:
        self.cells: dict[str, Cell] = {}

    # --- any kind -------------------------------------------------------------------------------

    def value(self, key: str) -> Any:
        cell = self.cells[key]
        return len(cell.value) if cell.kind == "hll" else cell.value

    def contents(self, prefix: str = "") -> dict[str, Any]:
        return {key: self.value(key) for key in self.order(prefix)}

    def order(self, prefix: str = "") -> list[str]:
        found = [key for key in self.cells if encoded(key).startswith(encoded(prefix))]
        return sorted(found, key=encoded)

    def scan(self, prefix: str, start: str | None, stop: str | None, *, reverse: bool,
             limit: int | None) -> list[tuple[str, Any]]:
        keys = [key for key in self.order(prefix)
                if (start is None or encoded(key) >= encoded(start))
                and (stop is None or encoded(key) < encoded(stop))]
        if reverse:
            keys.reverse()
        return [(key, self.value(key)) for key in keys[:limit]]

    def delete(self, key: str) -> bool:
        return self.cells.pop(key, None) is not None

    def clear(self, prefix: str = "") -> None:
        for key in self.order(prefix):
            del self.cells[key]

    def evict(self, label: str) -> int:
        found = [key for key, cell in self.cells.items() if cell.label == label]
        for key in found:
            del self.cells[key]
        return len(found)

    def touch(self, key: str, *, mortal: bool) -> bool:
        if key in self.cells:
            self.cells[key].mortal = mortal
        return key in self.cells

    def emptied(self, key: str) -> bool:
        """Everything was removed from a set or map: the key is free for another kind."""
        return self.cells[key].kind in ("orset", "ormap") and not self.cells[key].value

    # --- registers ------------------------------------------------------------------------------

    def set(self, key: str, value: Any, *, mortal: bool = False, label: str | None = None) -> None:
        if key in self.cells and self.cells[key].kind != "register" and not self.emptied(key):
            raise Mismatch(key)
        self.cells[key] = Cell("register", value, mortal=mortal, label=label)

    def add(self, key: str, value: Any) -> bool:
        if key in self.cells:
            return False
        self.cells[key] = Cell("register", value)
        return True

    # --- lattices -------------------------------------------------------------------------------

    def cell(self, key: str, kind: str) -> Cell:
        """The cell to change, made at the kind's bottom if it is missing or emptied."""
        found = self.cells.get(key)
        if found is None or (found.kind != kind and self.emptied(key)):
            self.cells[key] = Cell(kind, BOTTOMS.get(kind))
        if self.cells[key].kind != kind:
            raise Mismatch(key)
        return self.cells[key]

    def look(self, key: str, kind: str) -> Any:
        """What a handle of that kind shows."""
        if key not in self.cells:
            return 0 if kind == "hll" else BOTTOMS.get(kind)
        if self.cells[key].kind != kind:
            raise Mismatch(key)
        return self.value(key)

    def count(self, key: str, amount: int) -> int:
        cell = self.cell(key, "counter")
        cell.value += amount
        return int(cell.value)

    def tally(self, key: str, amount: int) -> None:
        self.count(key, amount)

    def observe(self, key: str, kind: str, number: Any) -> None:
        cell = self.cell(key, kind)
        pick = max if kind.startswith("max") else min
        cell.value = number if cell.value is None else pick(cell.value, number)

    def enable(self, key: str) -> None:
        self.cell(key, "flag").value = True

    def unite(self, key: str, kind: str, members: set[Any]) -> None:
        cell = self.cell(key, kind)
        merged = frozenset(cell.value) | members
        cell.value = tuple(sorted(merged)) if kind == "ordered_set" else merged

    def drop(self, key: str, members: set[Any]) -> None:
        if key in self.cells:
            cell = self.cell(key, "orset")
            cell.value -= members

    def assign(self, key: str, kind: str, value: Any) -> None:
        """mvregister, causal, multicausal by one writer: the last value."""
        self.cell(key, kind).value = value

    def field_set(self, key: str, kind: str, field: Any, value: Any) -> None:
        cell = self.cell(key, kind)
        cell.value = {**cell.value, field: value}

    def field_count(self, key: str, kind: str, field: Any, amount: int) -> None:
        cell = self.cell(key, kind)
        cell.value = {**cell.value, field: cell.value.get(field, 0) + amount}

    def field_drop(self, key: str, field: Any) -> None:
        if key in self.cells:
            cell = self.cell(key, "ormap")
            cell.value = {f: v for f, v in cell.value.items() if f != field}
