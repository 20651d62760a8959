"""The twins of MaxArray and SumArray: plain lists of numbers, from the description of the states.

A state is None (the bottom) or (header, body): for a maximum a list of numbers, for a sum a dict
{actor: (version, list of numbers)}. Floats are rounded to their width after every addition.
"""
from __future__ import annotations

import math
import struct
from typing import Any

from tests.model.encoding import Corrupt, Reader, u64

__all__ = ["MaxTwin", "SumTwin", "array_bytes", "read_array"]

FORMATS = {
    (0, 8): "b", (0, 16): "h", (0, 32): "i", (0, 64): "q",
    (1, 8): "B", (1, 16): "H", (1, 32): "I", (1, 64): "Q",
    (2, 16): "e", (2, 32): "f", (2, 64): "d",
}


def array_bytes(dtype: tuple[int, int], shape: tuple[int, ...], numbers: list[Any]) -> bytes:
    code, bits = dtype
    head = struct.pack("<BBHBxxx", code, bits, 1, len(shape))
    head += struct.pack(f"<{len(shape)}q", *shape)
    return head + struct.pack(f"<{len(numbers)}{FORMATS[dtype]}", *numbers)


def read_head(r: Reader) -> tuple[bytes, tuple[int, int], int]:
    """(header, dtype, elements)"""
    start = r.at
    code, bits, lanes, ndim, zero = struct.unpack("<BBHB3s", r.take(8))
    if (code, bits) not in FORMATS or lanes != 1 or ndim > 32 or zero != bytes(3):
        raise Corrupt("header")
    shape = struct.unpack(f"<{ndim}q", r.take(8 * ndim))
    if any(n < 0 for n in shape):
        raise Corrupt("shape")
    positive = math.prod(n for n in shape if n)
    if positive * bits // 8 >= 1 << 63:
        raise Corrupt("shape")
    return r.b[start : r.at], (code, bits), math.prod(shape)


def read_data(r: Reader, dtype: tuple[int, int], n: int) -> list[Any]:
    form = f"<{n}{FORMATS[dtype]}"
    if struct.calcsize(form) > 1 << 30:
        raise Corrupt("size")
    return list(struct.unpack(form, r.take(struct.calcsize(form))))


def read_array(b: bytes) -> tuple[bytes, tuple[int, int], list[Any]]:
    r = Reader(b)
    head, dtype, n = read_head(r)
    numbers = read_data(r, dtype, n)
    if r:
        raise Corrupt("rest")
    return head, dtype, numbers


def tidy(numbers: list[Any]) -> list[Any]:
    return [0.0 if x == 0 and isinstance(x, float) else x for x in numbers]


class MaxTwin:
    def __init__(self, state: bytes = b"") -> None:
        self.state = state
        if state:
            _, _, numbers = read_array(state)
            for x in numbers:
                if x != x or (x == 0 and math.copysign(1, x) < 0):
                    raise Corrupt("number")

    def join(self, other: MaxTwin) -> MaxTwin:
        if not self.state or not other.state:
            return self if self.state else other
        head, dtype, mine = read_array(self.state)
        head2, _, theirs = read_array(other.state)
        if head != head2:
            return self if head > head2 else other
        greatest = [max(x, y) for x, y in zip(mine, theirs, strict=True)]
        return MaxTwin(head + array_bytes(dtype, (), greatest)[8:])

    def observe(self, arg: bytes) -> MaxTwin:
        head, dtype, numbers = read_array(arg)
        return self.join(MaxTwin(head + array_bytes(dtype, (), tidy(numbers))[8:]))


def width(dtype: tuple[int, int], n: int) -> int:
    return (n * dtype[1] // 8 + 7) // 8 * 8


class SumTwin:
    def __init__(self, state: bytes = b"") -> None:
        self.head, self.dtype, self.n = b"", (0, 0), 0
        self.entries: dict[int, tuple[int, list[Any]]] = {}
        if not state:
            return
        r = Reader(state)
        self.head, self.dtype, self.n = read_head(r)
        if self.dtype not in {(0, 32), (0, 64), (2, 32), (2, 64)}:
            raise Corrupt("dtype")
        while r:
            actor, version = r.u64(), r.u64()
            self.entries[actor] = version, read_data(r, self.dtype, self.n)
            r.take(width(self.dtype, self.n) - self.n * self.dtype[1] // 8)
            if not all(map(math.isfinite, self.entries[actor][1])) or actor == 0 or version == 0:
                raise Corrupt("entry")
        if not self.entries or self.state != state:
            raise Corrupt("not canonical")
        for _, numbers in self.entries.values():
            if any(x == 0 and math.copysign(1, x) < 0 for x in numbers):
                raise Corrupt("-0")

    @property
    def state(self) -> bytes:
        out = self.head
        for actor, (version, numbers) in sorted(self.entries.items()):
            data = array_bytes(self.dtype, (), numbers)[8:]
            out += u64(actor, version) + data.ljust(width(self.dtype, self.n), b"\0")
        return out

    def join(self, other: SumTwin) -> SumTwin:
        if self.head != other.head:
            return self if self.head > other.head else other
        joined = SumTwin()
        joined.head, joined.dtype, joined.n = self.head, self.dtype, self.n
        for actor in self.entries.keys() | other.entries.keys():
            both = [side.entries[actor] for side in (self, other) if actor in side.entries]
            joined.entries[actor] = max(
                both, key=lambda entry: (entry[0], array_bytes(self.dtype, (), entry[1]))
            )
        return joined

    def add(self, arg: bytes, actor: int) -> SumTwin:
        head, dtype, numbers = read_array(arg)
        after = SumTwin()
        after.head, after.dtype, after.n = head, dtype, len(numbers)
        version, mine = self.entries.get(actor, (0, [0] * len(numbers)))
        total = [x + y for x, y in zip(mine, tidy(numbers), strict=True)]
        after.entries[actor] = version + 1, rounded(dtype, total)
        return self.join(after)

    def value(self) -> list[Any]:
        total: list[Any] | None = None
        for _, (_, numbers) in sorted(self.entries.items()):
            if total is None:
                total = numbers
            else:
                total = rounded(self.dtype, [x + y for x, y in zip(total, numbers, strict=True)])
        return total or []


def rounded(dtype: tuple[int, int], numbers: list[Any]) -> list[Any]:
    """At the width of the dtype. OverflowError if one does not fit."""
    if dtype[0] == 0:
        for x in numbers:
            if not -(1 << dtype[1] - 1) <= x < 1 << dtype[1] - 1:
                raise OverflowError
        return numbers
    form = f"<{len(numbers)}{FORMATS[dtype]}"
    found = list(struct.unpack(form, struct.pack(form, *numbers)))
    if not all(map(math.isfinite, found)):
        raise OverflowError
    return found
