"""Bytes for the twins: a strict reader and a writer, from the description of the cell format.

Imports nothing of annapy: a mistake there must not be repeated here.
"""

from __future__ import annotations

import struct

__all__ = ["Corrupt", "Reader", "counted", "u64", "varint"]


class Corrupt(Exception):
    """These bytes are not a canonical encoding."""


def varint(n: int) -> bytes:
    """LEB128: seven bits a byte, least significant first."""
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def counted(b: bytes) -> bytes:
    return varint(len(b)) + b


class Reader:
    """Takes bytes from the front; raises Corrupt for what is not there."""

    def __init__(self, b: bytes) -> None:
        self.b = b
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.b)

    def take(self, n: int) -> bytes:
        if n > len(self.b) - self.at:
            raise Corrupt("short")
        self.at += n
        return self.b[self.at - n : self.at]

    def rest(self) -> bytes:
        return self.take(len(self.b) - self.at)

    def u8(self) -> int:
        return self.take(1)[0]

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def varint(self) -> int:
        start, n, shift = self.at, 0, 0
        while True:
            byte = self.u8()
            n |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if n >= 1 << 64 or varint(n) != self.b[start : self.at]:
            raise Corrupt("varint")
        return n

    def counted(self) -> bytes:
        return self.take(self.varint())
