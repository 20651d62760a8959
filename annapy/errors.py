"""Every error that annapy raises of its own, and the one place that shortens a key for a message.

    AnnapyError (Exception)
    ├── LatticeTypeError (TypeError)      a key holds another kind of lattice
    ├── SerializationError (TypeError)    a value that has no safe encoding here
    ├── CorruptCellError (ValueError)     bytes that are not a canonical cell
    ├── FormatError (ValueError)          a store, frame or token of another format version
    ├── InvalidToken (ValueError)         a session token that is forged, damaged or expired
    ├── CapacityError (MemoryError)       the memory or disk budget is used up
    ├── Backpressure (TimeoutError)       the write could not be posted in time; nothing was posted
    ├── AckTimeout (TimeoutError)         applied, but not confirmed yet at the level asked for
    ├── NodeUnavailable (ConnectionError) no owner answered
    ├── OutcomeUnknown (ConnectionError)  the home node was lost with operations unacknowledged
    ├── StoreLocked                       another process owns the directory
    ├── StoreClosed                       the store was closed
    ├── ReadOnlyError                     a write to a store opened with readonly=True
    ├── ClockSkewError                    a clock is more than a minute off
    ├── SessionLost                       the node that held the session's state is gone
    ├── AuthenticationError (PermissionError)
    └── DeviceUnavailable                 no such device, or its driver is missing

Invariants
    every error pickles with its attributes; every attribute is declared by its class
    a message names the key (shortened), what was expected, what was found and what to do
A missing key is a plain KeyError, a TTL of zero or less a ValueError, a counter that would pass
64 bits an OverflowError: those are Python's own.
"""

# ruff: noqa: N818  the names are those of the public interface, and say what happened
from __future__ import annotations

__all__ = [
    "AckTimeout",
    "AnnapyError",
    "AuthenticationError",
    "Backpressure",
    "CapacityError",
    "ClockSkewError",
    "CorruptCellError",
    "DeviceUnavailable",
    "FormatError",
    "InvalidToken",
    "LatticeTypeError",
    "NodeUnavailable",
    "OutcomeUnknown",
    "ReadOnlyError",
    "SerializationError",
    "SessionLost",
    "StoreClosed",
    "StoreLocked",
    "shorten_key",
]


def shorten_key(key: str | bytes, limit: int = 60) -> str:
    """The key as a message shows it: its repr, the middle left out past `limit` characters.

    >>> shorten_key("user:42")
    "'user:42'"
    >>> shorten_key("k" * 500, limit=20)
    "'kkkkkkkkkk…kkkkkkk' (500 characters)"
    """
    if len(key) <= limit:
        return repr(key)
    unit = "characters" if isinstance(key, str) else "bytes"
    shown = key if isinstance(key, str) else key.decode("utf-8", "backslashreplace")
    head, tail = limit // 2, limit // 2 - 3
    return f"{shown[:head] + '…' + shown[-tail:]!r} ({len(key)} {unit})"


class AnnapyError(Exception):
    """The base of every error of annapy.

    Keyword arguments set the attributes that the class declares, and those only; they survive
    pickling. `key` is the key concerned, whole, or None.
    """

    key: str | bytes | None = None

    def __init__(self, message: str = "", **details: object) -> None:
        super().__init__(message)
        for name, value in details.items():
            if name.startswith("_") or not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no attribute {name!r} to set")
            setattr(self, name, value)


class LatticeTypeError(AnnapyError, TypeError):
    """A key holds another kind of lattice than the operation is for. Nothing was changed."""

    expected: str | None = None
    found: str | None = None


class SerializationError(AnnapyError, TypeError):
    """A value has no safe encoding. Nothing was changed.

    Offer the buffer protocol or `__dlpack__`, use the types that annapy knows, or open a private
    store with `allow_pickle=True`.
    """


class CorruptCellError(AnnapyError, ValueError):
    """Bytes are not a canonical cell, state or value. Nothing was taken from them."""


class FormatError(AnnapyError, ValueError):
    """A store, frame or token was written by another format version."""

    expected: object = None
    found: object = None


class InvalidToken(AnnapyError, ValueError):
    """A session token is forged, damaged or expired."""


class CapacityError(AnnapyError, MemoryError):
    """The budget of memory or disk is used up, and nothing may be evicted to make room."""

    wanted_bytes: int | None = None
    capacity_bytes: int | None = None


class Backpressure(AnnapyError, TimeoutError):
    """A write could not be posted within the write timeout. Nothing was posted."""


class AckTimeout(AnnapyError, TimeoutError):
    """Applied and spreading, but not confirmed at the level asked for within the timeout."""

    level: object = None


class NodeUnavailable(AnnapyError, ConnectionError):
    """No owner of the key answered within the timeout."""


class OutcomeUnknown(AnnapyError, ConnectionError):
    """The home node was lost before it acknowledged. Retry with `op_id=` to apply exactly once."""


class StoreLocked(AnnapyError):
    """Another process owns the directory."""

    path: str | None = None
    owner: str | None = None


class StoreClosed(AnnapyError):
    """The store was closed. Views taken from it stay valid."""


class ReadOnlyError(AnnapyError):
    """A write to a store that was opened with `readonly=True`, or whose directory is read-only."""


class ClockSkewError(AnnapyError):
    """A clock is further off than the limit. Set the machine's time, then retry."""

    skew_ms: int | None = None


class SessionLost(AnnapyError):
    """The session's state was lost with its node: begin a new one rather than step back."""


class AuthenticationError(AnnapyError, PermissionError):
    """The peer refused this key, or this key may not touch that namespace."""


class DeviceUnavailable(AnnapyError):
    """No such device, or its driver or the optional dependency for it is missing."""
