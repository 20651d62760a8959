"""The twin of the two codecs of Python values, written from docs/internals/values.md.

encode, decode   values: exact types, as in registers
member           set members and map fields: memcmp order, one encoding for equal ones

Slow and plain: numbers are Fractions, and decode checks itself by encoding again.
"""
from __future__ import annotations

import datetime as dt
import math
import struct
import uuid
import zoneinfo
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from tests.model.encoding import Corrupt, Reader, counted, varint

__all__ = ["decode", "encode", "member"]

US = dt.timedelta(microseconds=1)
DAY = 86_400_000_000
DEPTH = 64


# --- values -----------------------------------------------------------------------------------


def encode_int(x: int) -> bytes:
    for code, size in ((4, 1), (5, 2), (6, 4), (7, 8)):
        if -(1 << 8 * size - 1) <= x < 1 << 8 * size - 1:
            return bytes([code]) + x.to_bytes(size, "little", signed=True)
    size = 9
    while not -(1 << 8 * size - 1) <= x < 1 << 8 * size - 1:
        size += 1
    return b"\x08" + counted(x.to_bytes(size, "little", signed=True))


def encode_zone(tz: dt.tzinfo | None) -> tuple[int, bytes]:
    if tz is None:
        return 0, b""
    if tz is dt.timezone.utc:
        return 1, b""
    if isinstance(tz, zoneinfo.ZoneInfo):
        assert tz.key is not None
        return 4, counted(tz.key.encode("utf-8", "surrogatepass"))
    offset = struct.pack("<q", tz.utcoffset(None) // US)
    if tz == dt.timezone(tz.utcoffset(None)) and repr(tz) == repr(dt.timezone(tz.utcoffset(None))):
        return 2, offset
    return 3, offset + counted(tz.tzname(None).encode("utf-8", "surrogatepass"))


def wall(x: dt.datetime | dt.time) -> int:
    clock = ((x.hour * 60 + x.minute) * 60 + x.second) * 1_000_000 + x.microsecond
    return clock + ((x.toordinal() - 1) * DAY if isinstance(x, dt.datetime) else 0)


def encode_clock(x: dt.datetime | dt.time) -> bytes:
    kind, zone = encode_zone(x.tzinfo)
    return bytes([x.fold | kind << 1]) + struct.pack("<q", wall(x)) + zone


def encode_plain(x: Any) -> bytes | None:
    """Types without members."""
    if x is None or x is False or x is True:
        return {None: b"\x01", False: b"\x02", True: b"\x03"}[x]
    if isinstance(x, int):
        return encode_int(x)
    if isinstance(x, float):
        return b"\x09" + struct.pack("<d", x)
    if isinstance(x, complex):
        return b"\x0a" + struct.pack("<dd", x.real, x.imag)
    if isinstance(x, str):
        return b"\x10" + counted(x.encode("utf-8", "surrogatepass"))
    if isinstance(x, bytes):
        return b"\x11" + counted(x)
    if isinstance(x, bytearray):
        return b"\x12" + counted(bytes(x))
    if isinstance(x, dt.datetime):
        return b"\x21" + encode_clock(x)
    if isinstance(x, dt.date):
        return b"\x20" + struct.pack("<I", x.toordinal())
    if isinstance(x, dt.time):
        return b"\x22" + encode_clock(x)
    if isinstance(x, dt.timedelta):
        return b"\x23" + struct.pack("<iII", x.days, x.seconds, x.microseconds)
    if isinstance(x, uuid.UUID):
        return b"\x24" + x.bytes
    if isinstance(x, Decimal):
        return b"\x25" + counted(str(x).encode())
    return None


def encode(x: Any) -> bytes:
    plain = encode_plain(x)
    if plain is not None:
        return plain
    if isinstance(x, tuple):
        return b"\x18" + varint(len(x)) + b"".join(map(encode, x))
    if isinstance(x, list):
        return b"\x19" + varint(len(x)) + b"".join(map(encode, x))
    if isinstance(x, dict):
        items = (encode(k) + encode(v) for k, v in x.items())
        return b"\x1a" + varint(len(x)) + b"".join(items)
    assert isinstance(x, (set, frozenset))
    parts = sorted({encode(item) for item in x})
    code = b"\x1b" if isinstance(x, set) else b"\x1c"
    return code + varint(len(parts)) + b"".join(parts)


def read_zone(r: Reader, kind: int) -> dt.tzinfo | None:
    if kind < 2:
        return dt.timezone.utc if kind else None
    if kind > 4:
        raise Corrupt("zone")
    if kind == 4:
        return zoneinfo.ZoneInfo(r.counted().decode("utf-8", "surrogatepass"))
    offset = dt.timedelta(microseconds=int.from_bytes(r.take(8), "little", signed=True))
    if kind == 2:
        return dt.timezone(offset)
    return dt.timezone(offset, r.counted().decode("utf-8", "surrogatepass"))


def read_clock(r: Reader, is_time: bool) -> dt.datetime | dt.time:
    flags = r.u8()
    us = int.from_bytes(r.take(8), "little", signed=True)
    tz = read_zone(r, flags >> 1)
    if us < 0 or (is_time and us >= DAY):
        raise Corrupt("clock")
    first = dt.datetime(1, 1, 1)  # noqa: DTZ001  the wall clock, whatever the zone
    x = (first + us * US).replace(tzinfo=tz, fold=flags & 1)
    return x.timetz() if is_time else x


def read_plain(r: Reader, code: int) -> Any:
    if code <= 3:
        return {1: None, 2: False, 3: True}[code]
    if code <= 7:
        return int.from_bytes(r.take(1 << code - 4), "little", signed=True)
    if code == 0x08:
        return int.from_bytes(r.counted(), "little", signed=True)
    if code == 0x09:
        return struct.unpack("<d", r.take(8))[0]
    if code == 0x0A:
        return complex(*struct.unpack("<dd", r.take(16)))
    if code == 0x10:
        return r.counted().decode("utf-8", "surrogatepass")
    if code in (0x11, 0x12):
        return (bytes if code == 0x11 else bytearray)(r.counted())
    if code == 0x20:
        return dt.date.fromordinal(int.from_bytes(r.take(4), "little"))
    if code in (0x21, 0x22):
        return read_clock(r, code == 0x22)
    if code == 0x23:
        return dt.timedelta(*struct.unpack("<iII", r.take(12)))
    if code == 0x24:
        return uuid.UUID(bytes=r.take(16))
    if code == 0x25:
        return Decimal(r.counted().decode("ascii"))
    raise Corrupt("code")


def read(r: Reader, depth: int = 0) -> Any:
    code = r.u8()
    if not 0x18 <= code <= 0x1C:
        return read_plain(r, code)
    n = r.varint()
    if depth == DEPTH:
        raise Corrupt("depth")
    if n * (2 if code == 0x1A else 1) > len(r.b) - r.at:
        raise Corrupt("count")
    if code == 0x1A:
        found = {}
        for _ in range(n):
            key = read(r, depth + 1)
            found[key] = read(r, depth + 1)
        return found
    items = [read(r, depth + 1) for _ in range(n)]
    return {0x18: tuple, 0x19: list, 0x1B: set, 0x1C: frozenset}[code](items)


def decode(b: bytes) -> Any:
    """Corrupt unless these are the bytes that the value found in them has."""
    r = Reader(b)
    try:
        x = read(r)
    except zoneinfo.ZoneInfoNotFoundError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, InvalidOperation) as error:
        raise Corrupt(str(error)) from error
    if r or encode(x) != b:
        raise Corrupt("not canonical")
    return x


# --- members ----------------------------------------------------------------------------------


def big_endian(n: int) -> bytes:
    return n.to_bytes((n.bit_length() + 7) // 8, "big")


def fraction_bytes(f: Fraction) -> bytes:
    """A fraction of 1: leading zero bits, seven bits a byte, then decimal pairs."""
    if not f:
        return b"\0"
    zeros = 0
    while f * 2 < 1:
        f *= 2
        zeros += 1
    out = bytearray([0xFF - zeros] if zeros < 128 else (0x7FFF - zeros).to_bytes(2, "big"))
    rest = f
    for _ in range(10):
        rest *= 128
        digit = math.floor(rest)
        rest -= digit
        out.append(digit << 1 | (rest != 0))
        if not rest:
            return bytes(out)
    rest = f / 2**zeros
    while rest:
        rest *= 100
        pair = math.floor(rest)
        rest -= pair
        out.append(pair + 1)
    return bytes(out) + b"\0"


def number(x: Fraction) -> bytes:
    whole = math.floor(abs(x))
    digits = big_endian(whole)
    size = len(digits)
    head = bytes([0x80 + size]) if size <= 8 else b"\x89" + size.to_bytes(2, "big")
    out = head + digits + fraction_bytes(abs(x) - whole)
    return bytes(byte ^ 0xFF for byte in out) if x < 0 else out


def real(x: float | Decimal) -> bytes:
    if x != x:
        return b"\x8b"
    if x in (math.inf, -math.inf):
        return b"\x8a" if x > 0 else b"\x75"
    return number(Fraction(x))


def text(code: bytes, b: bytes, nested: bool) -> bytes:
    return code + (b.replace(b"\0", b"\0\xff") + b"\0" if nested else b)


def instant(x: dt.datetime | dt.time) -> bytes:
    offset = x.replace(fold=0).utcoffset()
    is_time = isinstance(x, dt.time)
    if offset is None:
        return (b"\xb3" if is_time else b"\xb1") + wall(x).to_bytes(8, "big")
    if is_time:
        offset -= dt.timedelta(microseconds=offset.microseconds)
    us = wall(x) - offset // US
    return (b"\xb4" if is_time else b"\xb2") + (us + (1 << 63)).to_bytes(8, "big")


def member(x: Any, nested: bool = False) -> bytes:
    if x is None:
        return b"\x10"
    if isinstance(x, (int, float, Decimal)):
        return real(x) if not isinstance(x, int) else number(Fraction(x))
    if isinstance(x, complex):
        return real(x.real) if x.imag == 0 else b"\x90" + real(x.real) + real(x.imag)
    if isinstance(x, str):
        return text(b"\xa0", x.encode("utf-8", "surrogatepass"), nested)
    if isinstance(x, bytes):
        return text(b"\xa1", x, nested)
    if isinstance(x, tuple):
        return b"\xa2" + b"".join(member(item, True) for item in x) + b"\0"
    if isinstance(x, frozenset):
        parts = sorted({member(item, True) for item in x})
        count = big_endian(len(parts))
        return b"\xa3" + bytes([len(count)]) + count + b"".join(parts)
    if isinstance(x, (dt.datetime, dt.time)):
        return instant(x)
    if isinstance(x, dt.date):
        return b"\xb0" + x.toordinal().to_bytes(4, "big")
    if isinstance(x, dt.timedelta):
        days = (x.days + (1 << 31)).to_bytes(4, "big")
        return b"\xb5" + days + x.seconds.to_bytes(4, "big") + x.microseconds.to_bytes(4, "big")
    assert isinstance(x, uuid.UUID)
    return b"\xb6" + x.bytes
