"""What callers hand in, checked and turned into what the engine takes. One place, one message each.

Owns    keys, labels, operation ids, 64-bit integers; Pin.
Threads pure functions.
"""
from __future__ import annotations

from annapy.limits import KEY_SIZE_MAX_BYTES, LABEL_SIZE_MAX_BYTES, OP_ID_SIZE_MAX_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from annapy.store import Store

__all__ = ["Pin", "i64", "key_bytes", "label_bytes", "mergeable", "op_id_bytes", "utf8"]

_I64_MIN, _I64_MAX = -(1 << 63), (1 << 63) - 1


def utf8(text: str | bytes) -> bytes:
    """The UTF-8 of a str (surrogateescape, as in `os.environ`); bytes as they are."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def key_bytes(k: object, prefix_len: int = 0) -> bytes:
    """A key's UTF-8. TypeError unless str or bytes, ValueError past 4 KiB with its prefix."""
    if isinstance(k, str):
        try:
            key = k.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            from annapy.errors import shorten_key
            raise ValueError(f"key {shorten_key(k)} holds half of a surrogate pair, which has no "
                             "UTF-8: pass bytes, or a str as os.fsdecode makes it") from None
    elif isinstance(k, bytes):
        key = k
    else:
        raise TypeError(f"a key must be str or bytes, not {type(k).__name__}; use str({k!r:.40}) "
                        "if you mean its text")
    if prefix_len + len(key) > KEY_SIZE_MAX_BYTES:
        from annapy.errors import shorten_key
        where = f" with its namespace of {prefix_len}" if prefix_len else ""
        raise ValueError(f"key {shorten_key(k)} is {len(key)} bytes in UTF-8{where}, over the "
                         f"limit of {KEY_SIZE_MAX_BYTES}: store it under a hash of it")
    return key


def label_bytes(tag: object) -> bytes | None:
    """A `tag=`: None, or str of 1 to 255 bytes in UTF-8."""
    if tag is None:
        return None
    if not isinstance(tag, str):
        raise TypeError(f"tag must be a str, not {type(tag).__name__}")
    label = utf8(tag)
    if not 1 <= len(label) <= LABEL_SIZE_MAX_BYTES:
        raise ValueError(f"tag={tag!r:.60} must be 1 to {LABEL_SIZE_MAX_BYTES} bytes in UTF-8")
    return label


def op_id_bytes(op_id: object) -> bytes | None:
    """An `op_id=`: None, or str or bytes of 1 to 255 bytes."""
    if op_id is None:
        return None
    if not isinstance(op_id, (str, bytes)):
        raise TypeError(f"op_id must be a str or bytes, not {type(op_id).__name__}")
    data = utf8(op_id)
    if not 1 <= len(data) <= OP_ID_SIZE_MAX_BYTES:
        raise ValueError(f"op_id must be 1 to {OP_ID_SIZE_MAX_BYTES} bytes, not {len(data)}")
    return data


def i64(number: object, what: str = "a counter takes") -> bytes:
    """Eight bytes. TypeError unless an integer, OverflowError past 64 bits."""
    try:
        value = number.__index__()  # type: ignore[attr-defined]
    except AttributeError:
        raise TypeError(f"{what} an int, not {type(number).__name__}") from None
    if not _I64_MIN <= value <= _I64_MAX:
        raise OverflowError(f"{what} 64-bit integers, and {value!r:.60} does not fit")
    return value.to_bytes(8, "little", signed=True)  # type: ignore[no-any-return]


def mergeable(k: object, x: object) -> int:
    """The tag of a lattice value that `merge(k, x)` was given. TypeError for anything else."""
    tag = getattr(x, "tag", None)
    if not isinstance(tag, int) or isinstance(x, type) or not hasattr(x, "join"):
        raise TypeError(f"merge({k!r:.60}) takes a lattice value such as "
                        f"annapy.lattice.GCounter(), not {type(x).__name__}; to store a plain "
                        "value, use set")
    return tag


class Pin:
    """A context manager: the bytes of an array or bytes value as a read-only memoryview."""

    __slots__ = ("_key", "_store")

    def __init__(self, store: Store, k: str | bytes) -> None:
        self._store = store
        self._key = k

    def __enter__(self) -> memoryview:
        value: Any = self._store[self._key]
        try:
            return memoryview(value).toreadonly()
        except TypeError:
            raise TypeError(f"pin({self._key!r}): a {type(value).__name__} has no buffer to look "
                            "at; pin is for arrays and bytes") from None

    def __exit__(self, *exc: object) -> None:
        return None
