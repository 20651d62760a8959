"""annapy: a state store for functions. Lattices beside the code: no round trip, no lost update.

    import annapy

    s = annapy.open("state")            # a directory; without one, memory
    s["user:42"] = {"age": 31}          # a MutableMapping
    s.counter("hits").add(1)            # typed handles: counters, sets, maps, arrays, …

Owns    the public names, each loaded when first used: importing annapy costs next to nothing.

Invariants
    dir(annapy) and __all__ are the public names, whatever was loaded so far
"""
from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from annapy import aio as aio
    from annapy import lattice as lattice
    from annapy import testing as testing
    from annapy._views import Tensor as Tensor
    from annapy.errors import (
        AckTimeout as AckTimeout,
    )
    from annapy.errors import (
        AnnapyError as AnnapyError,
    )
    from annapy.errors import (
        AuthenticationError as AuthenticationError,
    )
    from annapy.errors import (
        Backpressure as Backpressure,
    )
    from annapy.errors import (
        CapacityError as CapacityError,
    )
    from annapy.errors import (
        ClockSkewError as ClockSkewError,
    )
    from annapy.errors import (
        CorruptCellError as CorruptCellError,
    )
    from annapy.errors import (
        DeviceUnavailable as DeviceUnavailable,
    )
    from annapy.errors import (
        FormatError as FormatError,
    )
    from annapy.errors import (
        InvalidToken as InvalidToken,
    )
    from annapy.errors import (
        LatticeTypeError as LatticeTypeError,
    )
    from annapy.errors import (
        NodeUnavailable as NodeUnavailable,
    )
    from annapy.errors import (
        OutcomeUnknown as OutcomeUnknown,
    )
    from annapy.errors import (
        ReadOnlyError as ReadOnlyError,
    )
    from annapy.errors import (
        SerializationError as SerializationError,
    )
    from annapy.errors import (
        SessionLost as SessionLost,
    )
    from annapy.errors import (
        StoreClosed as StoreClosed,
    )
    from annapy.errors import (
        StoreLocked as StoreLocked,
    )
    from annapy.hub import connect as connect
    from annapy.hub import open_store as open
    from annapy.lattice.base import Lattice as Lattice
    from annapy.store import Store as Store
    from annapy.watch import Event as Event

__version__ = "0.1.0"

_ERRORS = (
    "AckTimeout", "AnnapyError", "AuthenticationError", "Backpressure", "CapacityError",
    "ClockSkewError", "CorruptCellError", "DeviceUnavailable", "FormatError", "InvalidToken",
    "LatticeTypeError", "NodeUnavailable", "OutcomeUnknown", "ReadOnlyError", "SerializationError",
    "SessionLost", "StoreClosed", "StoreLocked",
)
# public name: (module, name in it; "" for the module itself)
_LAZY = {
    **{name: ("annapy.errors", name) for name in _ERRORS},
    "Event": ("annapy.watch", "Event"),
    "Lattice": ("annapy.lattice.base", "Lattice"),
    "Store": ("annapy.store", "Store"),
    "Tensor": ("annapy._views", "Tensor"),
    "aio": ("annapy.aio", ""),
    "connect": ("annapy.hub", "connect"),
    "errors": ("annapy.errors", ""),
    "lattice": ("annapy.lattice", ""),
    "limits": ("annapy.limits", ""),
    "open": ("annapy.hub", "open_store"),
    "testing": ("annapy.testing", ""),
}

__all__ = [
    "AckTimeout",
    "AnnapyError",
    "AuthenticationError",
    "Backpressure",
    "CapacityError",
    "ClockSkewError",
    "CorruptCellError",
    "DeviceUnavailable",
    "Event",
    "FormatError",
    "InvalidToken",
    "Lattice",
    "LatticeTypeError",
    "NodeUnavailable",
    "OutcomeUnknown",
    "ReadOnlyError",
    "SerializationError",
    "SessionLost",
    "Store",
    "StoreClosed",
    "StoreLocked",
    "Tensor",
    "__version__",
    "aio",
    "connect",
    "errors",
    "lattice",
    "limits",
    "open",
    "testing",
]


def __getattr__(name: str) -> object:
    place = _LAZY.get(name)
    if place is None:
        raise AttributeError(f"module 'annapy' has no attribute {name!r}")
    import sys
    __import__(place[0])
    module = sys.modules[place[0]]
    value = getattr(module, place[1]) if place[1] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
