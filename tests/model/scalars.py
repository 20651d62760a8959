"""Twins of the scalar lattices, of causal contexts and of whole cells, from their definitions.

A twin's value is plain Python (an int, a tuple, a dict); `encode` and `decode` follow the
description of the cell format (docs/internals/cell.md). Nothing here imports annapy.

    join    least upper bound        below   a <= b
    apply   (value after an operation) or Refused        verdict on bytes: decode or Corrupt
"""
from __future__ import annotations

import math
import struct
from typing import Any

from tests.model.encoding import Corrupt, Reader, counted, u64, varint

__all__ = ["TWINS", "Cell", "Contexts", "Refused"]

I64_MIN, I64_MAX, U64_MAX = -(2**63), 2**63 - 1, 2**64 - 1


class Refused(Exception):
    """The operation is not one of this lattice's, or would overflow."""


class Chain:
    """A total order: `rank` says where a value stands; the join is the greater one."""

    bottom: Any = None

    def rank(self, value: Any) -> Any:
        raise NotImplementedError

    def join(self, a: Any, b: Any) -> Any:
        return b if self.below(a, b) else a

    def below(self, a: Any, b: Any) -> bool:
        if a is None or b is None:
            return a is None
        return self.rank(a) <= self.rank(b)


class Int(Chain):
    def __init__(self, sign: int) -> None:
        self.sign = sign

    def rank(self, value: Any) -> Any:
        return self.sign * value

    def apply(self, old: Any, code: str, arg: bytes, actor: int, stamp: Any) -> Any:
        if code != "observe" or len(arg) != 8:
            raise Refused
        return self.join(old, int.from_bytes(arg, "little", signed=True))

    def encode(self, value: Any) -> bytes:
        return b"" if value is None else value.to_bytes(8, "little", signed=True)

    def decode(self, data: bytes) -> Any:
        if not data:
            return None
        if len(data) != 8:
            raise Corrupt("int")
        return int.from_bytes(data, "little", signed=True)


def float_of(data: bytes) -> float:
    if len(data) != 8:
        raise Corrupt("float")
    x: float = struct.unpack("<d", data)[0]
    if math.isnan(x) or (x == 0 and math.copysign(1, x) < 0):
        raise Corrupt("not a canonical float")
    return x


class Float(Int):
    def apply(self, old: Any, code: str, arg: bytes, actor: int, stamp: Any) -> Any:
        if code != "observe" or len(arg) != 8:
            raise Refused
        x = struct.unpack("<d", arg)[0]
        if math.isnan(x):
            raise Refused
        return self.join(old, 0.0 if x == 0 else x)

    def encode(self, value: Any) -> bytes:
        return b"" if value is None else struct.pack("<d", value)

    def decode(self, data: bytes) -> Any:
        return float_of(data) if data else None


class Flag(Chain):
    def rank(self, value: Any) -> Any:
        return value

    def apply(self, old: Any, code: str, arg: bytes, actor: int, stamp: Any) -> Any:
        if code != "enable" or arg:
            raise Refused
        return True

    def encode(self, value: Any) -> bytes:
        return b"\1" if value else b""

    def decode(self, data: bytes) -> Any:
        if data not in {b"", b"\1"}:
            raise Corrupt("flag")
        return True if data else None


class LWW(Chain):
    """(stamp, value): the later stamp, then the greater value bytes."""

    def rank(self, value: Any) -> Any:
        return value

    def apply(self, old: Any, code: str, arg: bytes, actor: int, stamp: Any) -> Any:
        if code not in {"set", "clear"} or stamp == (0, 0, 0):
            raise Refused
        return self.join(old, (stamp, arg if code == "set" else b""))

    def encode(self, value: Any) -> bytes:
        return b"" if value is None else struct.pack("<QQI", *value[0]) + value[1]

    def decode(self, data: bytes) -> Any:
        if not data:
            return None
        if len(data) < 20:
            raise Corrupt("stamp")
        stamp = struct.unpack("<QQI", data[:20])
        if stamp == (0, 0, 0):
            raise Corrupt("zero stamp")
        return stamp, data[20:]


class Descending:
    """Bytes in the opposite order."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __le__(self, other: Any) -> bool:
        return bool(other.data <= self.data)

    def __lt__(self, other: Any) -> bool:
        return bool(other.data < self.data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Descending) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.data)


class Priority(Chain):
    """(priority, value): the lower priority, then the smaller bytes."""

    def rank(self, value: Any) -> Any:
        return -value[0], Descending(value[1])

    def apply(self, old: Any, code: str, arg: bytes, actor: int, stamp: Any) -> Any:
        if code != "offer" or len(arg) <= 8:
            raise Refused
        x = struct.unpack("<d", arg[:8])[0]
        if math.isnan(x):
            raise Refused
        return self.join(old, (0.0 if x == 0 else x, arg[8:]))

    def encode(self, value: Any) -> bytes:
        return b"" if value is None else struct.pack("<d", value[0]) + value[1]

    def decode(self, data: bytes) -> Any:
        if not data:
            return None
        if len(data) <= 8:
            raise Corrupt("no value")
        return float_of(data[:8]), data[8:]


class Columns:
    """{actor: numbers}: the maximum per column."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.bottom: Any = {}

    def join(self, a: Any, b: Any) -> Any:
        zero = (0,) * self.width
        return {
            actor: tuple(map(max, a.get(actor, zero), b.get(actor, zero))) for actor in {**a, **b}
        }

    def below(self, a: Any, b: Any) -> bool:
        zero = (0,) * self.width
        return all(
            mine <= theirs
            for actor, row in a.items()
            for mine, theirs in zip(row, b.get(actor, zero), strict=True)
        )

    def encode(self, value: Any) -> bytes:
        return b"".join(u64(actor, *row) for actor, row in sorted(value.items()))

    def decode(self, data: bytes) -> Any:
        reader, value, last = Reader(data), {}, 0
        while reader:
            actor, row = reader.u64(), tuple(reader.u64() for _ in range(self.width))
            if actor <= last or not any(row):
                raise Corrupt("row")
            value[actor] = row
            last = actor
        return value


def signed(arg: bytes) -> int:
    if len(arg) != 8:
        raise Refused
    return int.from_bytes(arg, "little", signed=True)


class GCounter(Columns):
    def apply(self, old: Any, code: str, arg: bytes, actor: int, stamp: Any) -> Any:
        if code != "add" or actor == 0 or signed(arg) < 0:
            raise Refused
        n = signed(arg)
        if n == 0:
            return old
        if sum(row[0] for row in old.values()) + n > I64_MAX:
            raise Refused
        return {**old, actor: (old.get(actor, (0,))[0] + n,)}


class Clock(Columns):
    def apply(self, old: Any, code: str, arg: bytes, actor: int, stamp: Any) -> Any:
        n = signed(arg) if arg else 1
        if code != "add" or actor == 0 or n < 0:
            raise Refused
        if n == 0:
            return old
        if old.get(actor, (0,))[0] + n > U64_MAX:
            raise Refused
        return {**old, actor: (old.get(actor, (0,))[0] + n,)}


class PNCounter(Columns):
    def apply(self, old: Any, code: str, arg: bytes, actor: int, stamp: Any) -> Any:
        if code != "add" or actor == 0:
            raise Refused
        n = signed(arg)
        if n == 0:
            return old
        total = sum(plus - minus for plus, minus in old.values()) + n
        plus, minus = old.get(actor, (0, 0))
        plus, minus = plus + max(n, 0), minus + max(-n, 0)
        if not I64_MIN <= total <= I64_MAX or max(plus, minus) > U64_MAX:
            raise Refused
        return {**old, actor: (plus, minus)}


TWINS: dict[str, Any] = {
    "maxint": Int(1),
    "minint": Int(-1),
    "maxfloat": Float(1),
    "minfloat": Float(-1),
    "flag": Flag(),
    "register": LWW(),
    "priority": Priority(),
    "gcounter": GCounter(1),
    "counter": PNCounter(2),
    "clock": Clock(1),
}


class Contexts:
    """Causal contexts as what they mean: plain sets of dots (actor, sequence)."""

    @staticmethod
    def encode(dots: set[tuple[int, int]]) -> bytes:
        vector = {}
        for actor in {actor for actor, _ in dots}:
            upto = 0
            while (actor, upto + 1) in dots:
                upto += 1
            if upto:
                vector[actor] = upto
        above = sorted(dot for dot in dots if dot[1] > vector.get(dot[0], 0))
        out = varint(len(vector)) + b"".join(u64(*pair) for pair in sorted(vector.items()))
        return out + varint(len(above)) + b"".join(u64(*dot) for dot in above)

    @staticmethod
    def decode(data: bytes, upto_max: int = 10_000) -> set[tuple[int, int]]:
        """The dots; Corrupt unless canonical. Prefixes past `upto_max` are not spelled out."""
        reader = Reader(data)
        pairs = [(reader.u64(), reader.u64()) for _ in range(reader.varint())]
        above = [(reader.u64(), reader.u64()) for _ in range(reader.varint())]
        if reader or any(upto > upto_max for _, upto in pairs):
            raise Corrupt("trailing, or too long for a twin")
        dots = {(actor, seq) for actor, upto in pairs for seq in range(1, upto + 1)} | set(above)
        if any(actor == 0 or seq == 0 for actor, seq in dots) or Contexts.encode(dots) != data:
            raise Corrupt("not canonical")
        return dots


class Cell:
    """(generation, tag) over (state, expiry, fields), as plain values; stamps: tuples or None."""

    def __init__(self, data: bytes) -> None:
        reader = Reader(data)
        head = reader.take(8)
        if head[0] != 1 or head[2] & ~15 or head[3] or struct.unpack("<I", head[4:])[0] != len(
            data
        ) - 8:
            raise Corrupt("header")
        self.tag, flags = head[1], head[2]
        self.generation = self.stamp(reader) if flags & 1 else None
        self.deadline = reader.u64() if flags & 2 else 0
        self.expiry = self.stamp(reader) if flags & 2 else None
        self.fields = self.field_list(reader) if flags & 4 else {}
        self.state = reader.rest()
        self.siblings = None
        if flags & 8:
            found, inner = [], Reader(self.state)
            while inner:
                found.append(inner.counted())
            if len(found) < 2 or found != sorted(set(found)):
                raise Corrupt("siblings")
            self.siblings = found
        if self.tag == 0 and self.state:
            raise Corrupt("a deletion with a state")
        if self.tag and self.siblings is None and self.kind() is not None:
            TWINS[self.kind()].decode(self.state)

    def kind(self) -> Any:
        names = [*TWINS]
        names = ["none", *names[:-1]]  # tags 1 to 9, then the collections'; clock is 15
        return "clock" if self.tag == 15 else names[self.tag] if self.tag < len(names) else None

    @staticmethod
    def stamp(reader: Reader) -> tuple[int, ...]:
        stamp: tuple[int, ...] = struct.unpack("<QQI", reader.take(20))
        if stamp == (0, 0, 0):
            raise Corrupt("zero stamp")
        return stamp

    @staticmethod
    def field_list(reader: Reader) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for _ in range(int.from_bytes(reader.take(2), "little")):
            kind, size = reader.u8(), int.from_bytes(reader.take(2), "little")
            body = reader.take(size)
            if kind <= max(found, default=0):
                raise Corrupt("field order")
            if (kind in {1, 3} and size != {1: 8, 3: 16}[kind]) or (kind == 2 and size < 20):
                raise Corrupt("field size")
            found[kind] = body
        if not found:
            raise Corrupt("no fields")
        return found

    def place(self) -> Any:
        return self.generation or (0, 0, 0), self.tag

    @staticmethod
    def join(x: bytes, y: bytes) -> bytes:
        a, b = Cell(x), Cell(y)
        if a.place() != b.place():
            return x if a.place() > b.place() else y
        flags = 0
        if a.kind() is None or a.tag == 0:
            both = sorted({*(a.siblings or [a.state]), *(b.siblings or [b.state])})
            state = both[0] if len(both) == 1 else b"".join(map(counted, both))
            flags |= 8 if len(both) > 1 else 0
        else:
            twin = TWINS[a.kind()]
            state = twin.encode(twin.join(twin.decode(a.state), twin.decode(b.state)))
        body = b""
        if a.generation:
            flags |= 1
            body += struct.pack("<QQI", *a.generation)
        stamp, deadline = max((c.expiry or (0, 0, 0), c.deadline) for c in (a, b))
        if stamp != (0, 0, 0):
            flags |= 2
            body += u64(deadline) + struct.pack("<QQI", *stamp)
        fields = {kind: Cell.field(kind, a, b) for kind in sorted({*a.fields, *b.fields})}
        if fields:
            flags |= 4
            body += struct.pack("<H", len(fields)) + b"".join(
                struct.pack("<BH", kind, len(value)) + value for kind, value in fields.items()
            )
        body += state
        return bytes((1, a.tag, flags, 0)) + struct.pack("<I", len(body)) + body

    @staticmethod
    def field(kind: int, a: Cell, b: Cell) -> bytes:
        found = [cell.fields[kind] for cell in (a, b) if kind in cell.fields]
        if kind == 2:
            return max(found, key=lambda label: (struct.unpack("<QQI", label[:20]), label))
        return max(found)
