"""Python values as bytes: the codec of registers, and the order-preserving one of members."""
from typing import Any

__all__ = ["decode", "encode", "member", "unmember"]

def encode(value: Any, allow_pickle: bool = False) -> bytes:
    """The value as bytes: one code byte and its payload.

    Natively: None, bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set,
    frozenset, datetime, date, time, timedelta, UUID, Decimal, NumPy arrays and scalars, anything
    with the buffer protocol, and `__dlpack__` in the host's memory. A subclass is stored as the
    built-in type that it extends. Containers nest up to 64 levels, a value takes up to 1 GiB.

    `allow_pickle`: objects of other types are pickled instead of refused.

    Raises SerializationError, naming the type and what to do. Blocks on nothing; costs one copy.
    """

def decode(data: bytes | bytearray | memoryview, allow_pickle: bool = False) -> Any:
    """The value that `encode` made these bytes from, of the same type, in memory of its own.

    `allow_pickle`: unpickle what was pickled; only for bytes that you trust.

    Raises CorruptCellError on bytes that `encode` never writes; SerializationError on a pickle
    without `allow_pickle`, and on a time zone that this machine does not know.
    """

def member(value: Any) -> bytes:
    """A set member or map field as bytes, ordered by memcmp as Python orders the values.

    Members that are equal in Python (1, 1.0, True, Decimal(1)) have the same bytes. Takes None,
    numbers, str, bytes, tuple, frozenset, date, datetime, time, timedelta and UUID.

    Raises TypeError on what cannot be hashed, SerializationError on other types, on integers past
    14,280 bits and on Decimals past 4,300 places.
    """

def unmember(data: bytes | bytearray | memoryview) -> Any:
    """A value equal to the one that `member` made these bytes from.

    A number comes back as int if it is whole, else as float if a double holds it exactly, else as
    Decimal; an aware datetime in UTC. Raises CorruptCellError on bytes that `member` never writes.
    """
