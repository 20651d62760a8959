"""The lattices: immutable values whose join, `a | b`, doesn't mind order or repetition.

    numbers     MaxInt MinInt MaxFloat MinFloat Flag GCounter PNCounter VectorClock HyperLogLog
    values      LWW Priority MVRegister Causal MultiCausal
    containers  GSet ORSet OrderedSet Map ORMap
    arrays      MaxArray SumArray
    your own    subclass Lattice, see annapy.lattice.user

`T()` is the bottom, `.value` what a reader sees, `bytes(a)` and `T.decode(b)` the cell, `a <= b`
the order. Each name is loaded when it is first asked for: importing the package costs nothing.

Source  Shapiro, Preguica, Baquero, Zawirski 2011, "Conflict-free replicated data types"; Wu et al.
        2018, "Anna: a KVS for any scale"; Almeida et al. 2018, "Delta state replicated data types".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from annapy._core.face import actor_id
    from annapy.lattice.arrays import MaxArray, SumArray
    from annapy.lattice.base import Lattice, class_of, from_cell, from_state
    from annapy.lattice.causal import Causal, MultiCausal, MVRegister
    from annapy.lattice.maps import Map, ORMap
    from annapy.lattice.scalar import (
        LWW,
        Flag,
        GCounter,
        MaxFloat,
        MaxInt,
        MinFloat,
        MinInt,
        PNCounter,
        Priority,
        VectorClock,
    )
    from annapy.lattice.sets import GSet, OrderedSet, ORSet
    from annapy.lattice.sketch import HyperLogLog

__all__ = [
    "LWW",
    "Causal",
    "Flag",
    "GCounter",
    "GSet",
    "HyperLogLog",
    "Lattice",
    "MVRegister",
    "Map",
    "MaxArray",
    "MaxFloat",
    "MaxInt",
    "MinFloat",
    "MinInt",
    "MultiCausal",
    "ORMap",
    "ORSet",
    "OrderedSet",
    "PNCounter",
    "Priority",
    "SumArray",
    "VectorClock",
    "actor_id",
    "class_of",
    "from_cell",
    "from_state",
]

_HOMES = {
    "base": ("Lattice", "class_of", "from_cell", "from_state"),
    "scalar": (
        "MaxInt",
        "MinInt",
        "MaxFloat",
        "MinFloat",
        "Flag",
        "LWW",
        "Priority",
        "GCounter",
        "PNCounter",
        "VectorClock",
    ),
    "sets": ("GSet", "ORSet", "OrderedSet"),
    "maps": ("Map", "ORMap"),
    "causal": ("Causal", "MVRegister", "MultiCausal"),
    "arrays": ("MaxArray", "SumArray"),
    "sketch": ("HyperLogLog",),
}
_HOME = {name: f"annapy.lattice.{home}" for home, names in _HOMES.items() for name in names}
_HOME["actor_id"] = "annapy._core.face"


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(__import__(_HOME[name], None, None, [name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
