"""The twin of HyperLogLog: a dict {register: rank}, from the description of the state."""
from __future__ import annotations

from tests.model.encoding import Corrupt, Reader

__all__ = ["SketchTwin", "hash64"]

MASK = (1 << 64) - 1
P0, P1, P2, P3 = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93


def fold(a: int, b: int) -> int:
    product = a * b
    return product & MASK ^ product >> 64


def hash64(data: bytes, seed: int = 0) -> int:
    """Part of the format: two lanes for what exceeds 32 bytes, then 16, then the rest."""

    def word(at: int, size: int = 8) -> int:
        return int.from_bytes(data[at : at + size], "little")

    at, left = 0, len(data)
    seed = fold(seed ^ P0, left ^ P1)
    if left > 32:
        lane = seed ^ P3
        while left > 32:
            seed = fold(word(at) ^ P1, word(at + 8) ^ seed)
            lane = fold(word(at + 16) ^ P2, word(at + 24) ^ lane)
            at, left = at + 32, left - 32
        seed ^= lane
    if left > 16:
        seed = fold(word(at) ^ P1, word(at + 8) ^ seed)
        at, left = at + 16, left - 16
    a = b = 0
    if left >= 8:
        a, b = word(at), word(at + left - 8)
    elif left >= 4:
        a, b = word(at, 4), word(at + left - 4, 4)
    elif left:
        a = data[at] << 16 | data[at + (left >> 1)] << 8 | data[at + left - 1]
    return fold(P3 ^ seed, fold(a ^ P1, b ^ seed ^ P2))


class SketchTwin:
    def __init__(self, state: bytes = b"", precision: int = 14) -> None:
        self.p = precision
        self.ranks: dict[int, int] = {}
        if not state:
            return
        r = Reader(state)
        self.p = r.u8()
        if not 4 <= self.p <= 16:
            raise Corrupt("precision")
        if r.u8():
            found = enumerate(r.take(1 << self.p))
        else:
            found = ((int.from_bytes(r.take(2), "little"), r.u8()) for _ in range(len(r.b) // 3))
        self.ranks = {index: rank for index, rank in found if rank}
        if not self.ranks or max(self.ranks.values()) > 65 - self.p:
            raise Corrupt("rank")
        if max(self.ranks) >> self.p or self.state != state:
            raise Corrupt("not canonical")

    @property
    def state(self) -> bytes:
        if not self.ranks:
            return b""
        if len(self.ranks) > (1 << self.p) // 4:
            return bytes([self.p, 1]) + bytes(self.ranks.get(i, 0) for i in range(1 << self.p))
        items = (i.to_bytes(2, "little") + bytes([rank]) for i, rank in sorted(self.ranks.items()))
        return bytes([self.p, 0]) + b"".join(items)

    def see(self, hashed: int) -> None:
        """Register: the top bits; rank: the place of the first one bit below them."""
        rest = f"{hashed & (1 << 64 - self.p) - 1:0{64 - self.p}b}"
        rank = (rest + "1").index("1") + 1
        index = hashed >> 64 - self.p
        self.ranks[index] = max(rank, self.ranks.get(index, 0))

    def add(self, member: bytes) -> None:
        self.see(hash64(member))

    def folded(self, precision: int) -> SketchTwin:
        """As if every member had been seen at a lower precision."""
        coarse = SketchTwin(precision=precision)
        for index, rank in self.ranks.items():
            # Any hash that leaves this trace will do.
            coarse.see(index << 64 - self.p | (1 << 64 - self.p) >> rank)
        return coarse

    def join(self, other: SketchTwin) -> SketchTwin:
        if not self.ranks or not other.ranks:
            return self if self.ranks else other
        p = min(self.p, other.p)
        joined, theirs = self.folded(p), other.folded(p)
        for index, rank in theirs.ranks.items():
            joined.ranks[index] = max(rank, joined.ranks.get(index, 0))
        return joined
